//! The limits and circuits of `nexus.yaml`, as the machines take them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::diagnostic::{Code, Diagnostic, Findings, Span};
use crate::base::document::{Entries, Spanned};
use crate::resilience::circuit::{RateRule, SlowRule};
use crate::resilience::limiter::LimitError;
use crate::resilience::{CircuitSettings, Limit, LimitSettings, Reserve};

use super::spec::{CircuitSpec, LimitSpec, ProjectFile};

const LIMIT: Code = Code("project/limit");
const CIRCUIT: Code = Code("project/circuit");

/// Everything that is wrong with limits and circuits.
pub(super) fn check(file: &ProjectFile) -> Findings {
    let mut findings = Findings::default();
    for (name, spec) in &file.limits {
        check_name(name, LIMIT, &mut findings);
        let _ = limit(name, spec, &mut findings);
    }
    for (name, spec) in &file.circuits {
        check_name(name, CIRCUIT, &mut findings);
        let _ = circuit(name, spec, &mut findings);
    }
    findings
}

/// The limits of a file without findings, by name.
pub(super) fn limits(file: &ProjectFile) -> BTreeMap<String, LimitSettings> {
    of(&file.limits, limit)
}

/// The circuits of a file without findings, by name.
pub(super) fn circuits(file: &ProjectFile) -> BTreeMap<String, CircuitSettings> {
    of(&file.circuits, circuit)
}

fn of<S, T>(
    entries: &Entries<S>,
    read: impl Fn(&str, &S, &mut Findings) -> Option<T>,
) -> BTreeMap<String, T> {
    let read = |(name, spec): &(Spanned<String>, S)| {
        read(name, spec, &mut Findings::default()).map(|value| (name.value.clone(), value))
    };
    entries.iter().filter_map(read).collect()
}

fn check_name(name: &Spanned<String>, code: Code, findings: &mut Findings) {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        findings.push(
            Diagnostic::error(code, "a name has 1 to 255 bytes and no control characters")
                .at(name.span.clone()),
        );
    }
}

fn limit(name: &str, spec: &LimitSpec, findings: &mut Findings) -> Option<LimitSettings> {
    let LimitSpec { capacity, per_second, reserve, shares } = spec;
    let mut wrong = |message: String, span: &Option<Span>| {
        let message = format!("limit `{name}`: {message}");
        findings.push(Diagnostic::error(LIMIT, message).at(span.clone()));
    };
    let limit = Limit::new(**capacity, **per_second);
    if let Err(error) = &limit {
        let span = match error {
            LimitError::Capacity(_) => &capacity.span,
            LimitError::Rate(_) => &per_second.span,
        };
        wrong(error.to_string(), span);
        // Both may be wrong, and all is said at once.
        if matches!(error, LimitError::Capacity(_))
            && let Err(error) = Limit::new(1, **per_second)
        {
            wrong(error.to_string(), &per_second.span);
        }
    }
    let floors = Reserve::new([0, reserve.high, reserve.normal, reserve.low], [0; 4]);
    if floors.is_err() {
        let message = "reserve has to rise from high over normal to low, and to be 99 at most";
        wrong(message.to_owned(), &reserve.span);
    }
    let shares_of = [0, shares.high, shares.normal, shares.low];
    if let Err(error) = Reserve::new([0; 4], shares_of) {
        wrong(error.to_string(), &shares.span);
    }
    let reserve = Reserve::new([0, reserve.high, reserve.normal, reserve.low], shares_of);
    Some(LimitSettings { limit: limit.ok()?, reserve: reserve.ok()? })
}

/// The shortest window there is.
const SHORTEST: Duration = Duration::from_millis(10);

fn circuit(name: &str, spec: &CircuitSpec, findings: &mut Findings) -> Option<CircuitSettings> {
    let CircuitSpec {
        threshold,
        recovery,
        longest_recovery,
        probes,
        probe_lapse,
        window,
        failed_percent,
        slow,
    } = spec;
    let mut sound = true;
    let mut wrong = |is_wrong: bool, message: &str, span: &Option<Span>| {
        if is_wrong {
            sound = false;
            let message = format!("circuit `{name}`: {message}");
            findings.push(Diagnostic::error(CIRCUIT, message).at(span.clone()));
        }
    };
    wrong(**threshold == 0, "threshold has to be 1 or more", &threshold.span);
    wrong(**probes == 0, "probes has to be 1 or more", &probes.span);
    wrong(recovery.0.is_zero(), "recovery has to be longer than nothing", &recovery.span);
    if let Some(longest) = longest_recovery {
        let message = "longestRecovery must not be shorter than recovery";
        wrong(**longest < **recovery, message, &longest.span);
    }
    let is_percent = |percent: u8| (1..=99).contains(&percent);
    if let Some(percent) = failed_percent {
        wrong(!is_percent(**percent), "failedPercent has to be from 1 to 99", &percent.span);
        wrong(window.is_none(), "failedPercent needs a window", &percent.span);
    }
    if let Some(slow) = slow {
        let percent = &slow.percent;
        wrong(!is_percent(**percent), "percent has to be from 1 to 99", &percent.span);
        wrong(window.is_none(), "slow needs a window", &slow.span);
    }
    if let Some(window) = window {
        wrong(window.0 < SHORTEST, "window has to be 10ms or more", &window.span);
    }
    let rate = window.as_ref().map(|window| RateRule {
        window: window.0,
        failed_percent: failed_percent.as_ref().map_or(50, |percent| percent.value),
        slow: slow
            .as_ref()
            .map(|slow| SlowRule { longer_than: slow.longer_than.0, percent: *slow.percent }),
    });
    let longest = longest_recovery.as_ref().map_or(Duration::from_secs(60), |longest| longest.0);
    sound.then(|| CircuitSettings {
        threshold: **threshold,
        recovery: recovery.0,
        longest_recovery: longest.max(recovery.0),
        probes: **probes,
        probe_lapse: probe_lapse.0,
        rate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::document::{decode, read_documents, source_from_bytes};

    fn file(text: &str) -> ProjectFile {
        let header = "apiVersion: nexus/v1\nkind: Project\nname: shop\n";
        let source = source_from_bytes("nexus.yaml", format!("{header}{text}").as_bytes());
        decode(&read_documents(&source.unwrap()).unwrap()[0]).unwrap()
    }

    /// Line and message of each finding.
    fn wrong(text: &str) -> Vec<String> {
        let findings = check(&file(text));
        findings
            .iter()
            .map(|finding| {
                let line = finding.span.as_ref().map_or(0, |span| span.line);
                format!("{line} {}", finding.message)
            })
            .collect()
    }

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_machines() {
        let file = file("limits:\n  api: {capacity: 60, perSecond: 0.5}\ncircuits:\n  bank: {}\n");
        assert!(check(&file).0.is_empty());
        let limit = limits(&file)["api"];
        assert_eq!((limit.limit.capacity(), limit.limit.per_second()), (60, 0.5));
        assert_eq!(limit.reserve, Reserve::default());
        assert_eq!(circuits(&file)["bank"], CircuitSettings::default());
    }

    #[test]
    fn the_example_in_a_new_project_is_sound() {
        let text = include_str!("templates/nexus.yaml");
        let example: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .skip_while(|line| *line != "limits:")
            .filter(|line| line.starts_with(' ') || line.ends_with(':'))
            .flat_map(|line| [line, "\n"])
            .collect();
        let file = file(&example);
        assert!(check(&file).0.is_empty(), "{example}");
        assert_eq!(limits(&file)["api"].limit.capacity(), 60);
        assert!(circuits(&file)["payments"].rate.is_some_and(|rate| rate.slow.is_some()));
    }

    #[test]
    fn everything_that_is_written_counts() {
        let file = file(
            "limits:
  api: {capacity: 10, perSecond: 5, reserve: {high: 0, normal: 0, low: 50}, shares: {low: 80, high: 0}}
circuits:
  bank:
    threshold: 7
    recovery: 2m
    probes: 3
    probeLapse: 10s
    window: 1m
    failedPercent: 20
    slow: {longerThan: 2s, percent: 30}
",
        );
        assert!(check(&file).0.is_empty());
        let reserve = Reserve::new([0, 0, 0, 50], [0, 0, 10, 80]).unwrap();
        assert_eq!(limits(&file)["api"].reserve, reserve);
        let seconds = Duration::from_secs;
        assert_eq!(
            circuits(&file)["bank"],
            CircuitSettings {
                threshold: 7,
                recovery: seconds(120),
                longest_recovery: seconds(120),
                probes: 3,
                probe_lapse: seconds(10),
                rate: Some(RateRule {
                    window: seconds(60),
                    failed_percent: 20,
                    slow: Some(SlowRule { longer_than: seconds(2), percent: 30 }),
                }),
            }
        );
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_place() {
        let text = "limits:
  a:
    capacity: 0
    perSecond: -1
    reserve: {high: 50}
    shares: {high: 90}
  \"\": {capacity: 1, perSecond: 1}
circuits:
  c:
    threshold: 0
    recovery: 0s
    longestRecovery: 0s
    probes: 0
    failedPercent: 100
    slow: {longerThan: 1s, percent: 0}
  d:
    recovery: 10s
    longestRecovery: 9s
    window: 1ms
";
        assert_eq!(
            wrong(text),
            [
                "6 limit `a`: the capacity is 0; it has to be from 1 to 100000000",
                "7 limit `a`: the rate is -1 per second; it has to be 0, or from 0.000001 to 100000000",
                "8 limit `a`: reserve has to rise from high over normal to low, and to be 99 at most",
                "9 limit `a`: the shares of high, normal and low add up to 105 percent; at most 90 \
                 leave something",
                "10 a name has 1 to 255 bytes and no control characters",
                "13 circuit `c`: threshold has to be 1 or more",
                "16 circuit `c`: probes has to be 1 or more",
                "14 circuit `c`: recovery has to be longer than nothing",
                "17 circuit `c`: failedPercent has to be from 1 to 99",
                "17 circuit `c`: failedPercent needs a window",
                "18 circuit `c`: percent has to be from 1 to 99",
                "18 circuit `c`: slow needs a window",
                "21 circuit `d`: longestRecovery must not be shorter than recovery",
                "22 circuit `d`: window has to be 10ms or more",
            ]
        );
    }
}
