//! The variables `nexusctl` reads, and a warning for those that look as if it would.

use crate::base::suggest::nearest;

use crate::cli::host::Environment;

/// A variable and what it sets.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it sets.
    pub about: &'static str,
}

const fn variable(name: &'static str, about: &'static str) -> Variable {
    Variable { name, about }
}

/// Every variable there is.
pub const VARIABLES: &[Variable] = &[
    variable("NEXUSCTL_BROKER", "the broker, like --broker"),
    variable("NEXUSCTL_COLOR", "auto, always or never, like --color"),
    variable("NEXUSCTL_COMPLETE", "set by completion scripts"),
    variable("NEXUSCTL_CONFIG", "the file of contexts, like --config"),
    variable("NEXUSCTL_CONTEXT", "the context, like --context"),
    variable("NEXUSCTL_LOG", "what to log on stderr, such as nexus=debug"),
    variable("NEXUSCTL_MANAGEMENT_URL", "the management API, like --management-url"),
    variable("NEXUSCTL_NO_PROGRESS", "no progress bars, like --no-progress"),
    variable("NEXUSCTL_OUTPUT", "the output format, like --output"),
    variable("NEXUSCTL_PASSWORD", "the password of the broker's user"),
    variable("NEXUSCTL_PROJECT", "the project directory, like --project"),
    variable("NEXUSCTL_READ_ONLY", "true refuses every change, like --read-only"),
    variable("NEXUSCTL_STATE", "the state file of the embedded broker and of journals"),
    variable("NEXUSCTL_TIMEOUT", "the longest wait for any answer, like --timeout"),
    variable("NEXUSCTL_TLS_CA", "the certificate authority, like --tls-ca"),
    variable("NEXUSCTL_TLS_CERT", "the client certificate, like --tls-cert"),
    variable("NEXUSCTL_TLS_KEY", "its key, like --tls-key"),
    variable("NEXUSCTL_TLS_SERVER_NAME", "the name in the server's certificate"),
    variable("NEXUSCTL_VHOST", "the virtual host, like --vhost"),
];

/// A warning for each `NEXUSCTL_` variable that nothing reads. Those of our own tests and benchmarks
/// are left alone.
pub fn unknown(environment: &Environment) -> Vec<String> {
    let ours = ["NEXUSCTL_TEST_", "NEXUSCTL_BENCH_", "NEXUSCTL_REGENERATE"];
    environment
        .0
        .keys()
        .filter(|name| name.starts_with("NEXUSCTL_"))
        .filter(|name| !VARIABLES.iter().any(|known| known.name == name.as_str()))
        .filter(|name| !ours.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| match nearest(name, VARIABLES.iter().map(|known| known.name)) {
            Some(near) => format!("nothing reads the variable {name}; did you mean {near}?"),
            None => format!("nothing reads the variable {name}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_noticed() {
        let set = ["NEXUSCTL_TIMEOUT", "NEXUSCTL_VHSOT", "NEXUSCTL_TEST_RABBITMQ_4_0", "PATH"];
        let environment = Environment(set.map(|name| (name.into(), "x".into())).into());
        assert_eq!(
            unknown(&environment),
            ["nothing reads the variable NEXUSCTL_VHSOT; did you mean NEXUSCTL_VHOST?"]
        );
    }
}
