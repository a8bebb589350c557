//! What is checked about an expression before anything is evaluated.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{ExecutionError, ParseErrors, Program, Value};
use regex::{Regex, RegexBuilder};

use super::{ExpressionError, MAX_DEPTH, MAX_LOOPS, MAX_NODES};
use crate::base::document::{did_you_mean, quoted};

/// A variable that an expression uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) variable: String,
    /// The keys of it that are used, or `None` for all of it.
    pub(super) fields: Option<Vec<String>>,
    /// Where it is used first.
    offset: usize,
}

/// A regular expression that an expression uses.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    regex: Regex,
    /// How many steps 64 bytes of text may cost.
    pub(super) cost: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) needs: Vec<Need>,
    pub(super) patterns: Vec<Pattern>,
}

/// How often a bracket may stand in brackets, and how many signs an expression may have: what the
/// parser, which recurses over both, is known to bear on a small stack.
const MAX_BRACKETS: usize = 32;
const MAX_SIGNS: usize = 600;

/// Refuses what the parser should not see. Does not know the grammar: a sign in a text counts too.
pub(super) fn before_parsing(source: &str) -> Result<(), ExpressionError> {
    let (mut depth, mut signs) = (0_usize, 0_usize);
    for (offset, c) in source.chars().enumerate() {
        let error = |message: String| Err(ExpressionError::new(source, offset, message));
        if c == '\0' {
            return error("a NUL character stands in the expression".to_owned());
        }
        if c.is_ascii_punctuation() && !matches!(c, '_' | '"' | '\'' | '\\' | ',') {
            signs += 1;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_BRACKETS {
            return error(format!("brackets are nested deeper than {MAX_BRACKETS} levels"));
        }
        if signs > MAX_SIGNS {
            return error(format!("the expression has more than {MAX_SIGNS} signs"));
        }
    }
    Ok(())
}

/// The first of the parser's complaints, without what it expected instead: that is nearly everything.
pub(super) fn syntax(source: &str, errors: ParseErrors) -> ExpressionError {
    let Some(error) = errors.errors.into_iter().next() else {
        return ExpressionError::new(source, 0, "this is no expression");
    };
    let [line, column] = [error.pos.0, error.pos.1]
        .map(|from_1| usize::try_from(from_1).unwrap_or(1).saturating_sub(1));
    let before: usize =
        source.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    let offset = (before + column).min(source.chars().count());
    let complaint = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let complaint = complaint.split(" expecting ").next().unwrap_or(complaint);
    let unexpected = [
        "mismatched input ",
        "extraneous input ",
        "token recognition error at: ",
        "no viable alternative at input ",
    ]
    .iter()
    .find_map(|beginning| complaint.strip_prefix(beginning))
    .map(|text| text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).unwrap_or(text));
    let message = match unexpected {
        Some("<EOF>") => "the expression ends too early".to_owned(),
        Some(text) => format!("{} is not expected here", quoted(text)),
        None if complaint.starts_with("Incomplete ") => "the expression is incomplete".to_owned(),
        None => format!("this is no expression: {}", quoted(complaint).trim_matches('`')),
    };
    let error = ExpressionError::new(source, offset, message);
    match unexpected.map(str::trim) {
        Some("and" | "AND" | "&") => error.hint("write `&&`"),
        Some("or" | "OR" | "|") => error.hint("write `||`"),
        Some("not" | "NOT") => error.hint("write `!`"),
        Some("=") => error.hint("`==` compares"),
        Some(text) if text.starts_with(['"', '\'']) && text.contains('\\') => {
            error.hint("a text with backslashes is written r'…'")
        }
        Some(text) if text.starts_with(['"', '\'']) => {
            error.hint("a text ends on the line on which it begins, with the same quote")
        }
        _ => error,
    }
}

/// A function: how many arguments it takes when called as `f(…)` and as `x.f(…)`.
struct Function(&'static str, Option<usize>, Option<usize>);

const FUNCTIONS: [Function; 13] = [
    Function("bool", Some(1), None),
    Function("bytes", Some(1), None),
    Function("contains", None, Some(1)),
    Function("double", Some(1), None),
    Function("dyn", Some(1), None),
    Function("endsWith", None, Some(1)),
    Function("int", Some(1), None),
    Function("matches", Some(2), Some(1)),
    Function("size", Some(1), Some(0)),
    Function("startsWith", None, Some(1)),
    Function("string", Some(1), None),
    Function("type", Some(1), None),
    Function("uint", Some(1), None),
];

/// Macros, which the parser has expanded unless they were written wrongly.
const MACROS: [(&str, &str); 6] = [
    ("all", "LIST.all(x, CONDITION)"),
    ("exists", "LIST.exists(x, CONDITION)"),
    ("exists_one", "LIST.exists_one(x, CONDITION)"),
    ("filter", "LIST.filter(x, CONDITION)"),
    ("has", "has(VALUE.key)"),
    ("map", "LIST.map(x, VALUE)"),
];

const OPERATORS: [&str; 18] = [
    operators::ADD,
    operators::CONDITIONAL,
    operators::DIVIDE,
    operators::EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::IN,
    operators::INDEX,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::LOGICAL_AND,
    operators::LOGICAL_NOT,
    operators::LOGICAL_OR,
    operators::MODULO,
    operators::MULTIPLY,
    operators::NEGATE,
    operators::NOT_EQUALS,
    operators::SUBSTRACT,
];

/// Names of types, for `type(x) == int`.
const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Checks size, names and functions of a parsed expression.
pub(super) fn tree(source: &str, program: &Program) -> Result<Checked, ExpressionError> {
    let mut checker =
        Checker { source, program, nodes: 0, scope: Vec::new(), found: Checked::default() };
    checker.visit(program.expression(), 1, 0)?;
    Ok(checker.found)
}

struct Checker<'a> {
    source: &'a str,
    program: &'a Program,
    nodes: usize,
    /// Names that a loop around here has bound.
    scope: Vec<&'a str>,
    found: Checked,
}

type Checking = Result<(), ExpressionError>;

impl<'a> Checker<'a> {
    /// Where `node` was written, in characters. The parser puts a call at its bracket and counts bytes.
    fn offset(&self, node: &IdedExpr) -> usize {
        let offset = self.program.source_info().offset_for(node.id).map_or(0, |(start, _)| start);
        let before = usize::try_from(offset).ok().and_then(|offset| self.source.get(..offset));
        let before = before.unwrap_or_default();
        let before = match &node.expr {
            Expr::Call(call) => before.strip_suffix(call.func_name.as_str()).unwrap_or(before),
            _ => before,
        };
        before.chars().count()
    }

    fn error(&self, node: &IdedExpr, message: impl Into<String>) -> ExpressionError {
        ExpressionError::new(self.source, self.offset(node), message)
    }

    fn visit(&mut self, node: &'a IdedExpr, depth: usize, loops: usize) -> Checking {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(node, format!("the expression has more than {MAX_NODES} parts")));
        }
        if depth > MAX_DEPTH {
            return Err(self.error(node, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => {
                if !TYPES.contains(&name.as_str()) {
                    self.variable(node, name, None);
                }
                Ok(())
            }
            Expr::Select(select) => self.select(&select.operand, &select.field, depth, loops),
            Expr::Call(call) => self.call(node, call, depth, loops),
            Expr::List(list) => {
                list.elements.iter().try_for_each(|element| self.visit(element, depth, loops))
            }
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key, depth, loops)?;
                    self.visit(&entry.value, depth, loops)
                }
                EntryExpr::StructField(_) => Err(self.no_types(node)),
            }),
            Expr::Comprehension(inner) => {
                if loops == MAX_LOOPS {
                    let message = format!(
                        "`all`, `exists`, `map` and `filter` are nested deeper than {MAX_LOOPS} levels"
                    );
                    return Err(self.error(node, message));
                }
                self.visit(&inner.iter_range, depth, loops)?;
                self.visit(&inner.accu_init, depth, loops)?;
                self.scope.extend([inner.iter_var.as_str(), inner.accu_var.as_str()]);
                for part in [&inner.loop_cond, &inner.loop_step, &inner.result] {
                    self.visit(part, depth, loops + 1)?;
                }
                self.scope.truncate(self.scope.len() - 2);
                Ok(())
            }
            Expr::Struct(_) => Err(self.no_types(node)),
            Expr::Unspecified => Err(self.error(node, "this is no expression")),
        }
    }

    fn no_types(&self, node: &IdedExpr) -> ExpressionError {
        self.error(node, "there are no message types here").hint("write a map: {\"key\": value}")
    }

    /// `operand.field`, `has(operand.field)` or `operand["field"]`.
    fn select(
        &mut self,
        operand: &'a IdedExpr,
        field: &'a str,
        depth: usize,
        loops: usize,
    ) -> Checking {
        match &operand.expr {
            Expr::Ident(name) => {
                self.nodes += 1;
                self.variable(operand, name, Some(field));
                Ok(())
            }
            _ => self.visit(operand, depth, loops),
        }
    }

    fn variable(&mut self, node: &IdedExpr, name: &'a str, field: Option<&str>) {
        if self.scope.contains(&name) {
            return;
        }
        let offset = self.offset(node);
        let field = field.map(str::to_owned);
        match self.found.needs.iter_mut().find(|need| need.variable == name) {
            None => self.found.needs.push(Need {
                variable: name.to_owned(),
                fields: field.map(|field| vec![field]),
                offset,
            }),
            Some(need) => match (&mut need.fields, field) {
                (Some(fields), Some(field)) if fields.contains(&field) => {}
                (Some(fields), Some(field)) => fields.push(field),
                (fields, _) => *fields = None,
            },
        }
    }

    fn call(
        &mut self,
        node: &'a IdedExpr,
        call: &'a CallExpr,
        depth: usize,
        loops: usize,
    ) -> Checking {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::INDEX, [operand, index]) => {
                if let Expr::Literal(LiteralValue::String(field)) = &index.expr {
                    self.nodes += 1;
                    return self.select(operand, field.inner(), depth, loops);
                }
            }
            (operators::NOT_STRICTLY_FALSE, _) if loops > 0 => {}
            _ if OPERATORS.contains(&name) => {}
            _ => self.function(node, call)?,
        }
        if let Some(target) = &call.target {
            self.visit(target, depth, loops)?;
        }
        call.args.iter().try_for_each(|argument| self.visit(argument, depth, loops))
    }

    fn function(&mut self, node: &'a IdedExpr, call: &'a CallExpr) -> Checking {
        let name = call.func_name.as_str();
        if let Some((_, usage)) = MACROS.iter().find(|(known, _)| *known == name) {
            return Err(self
                .error(node, format!("`{name}` is used wrongly"))
                .hint(format!("write {usage}")));
        }
        let Some(Function(_, global, member)) = FUNCTIONS.iter().find(|known| known.0 == name)
        else {
            let known =
                FUNCTIONS.iter().map(|known| known.0).chain(MACROS.iter().map(|known| known.0));
            let known: Vec<&str> = known.collect();
            let hint = did_you_mean(name, known.iter().copied())
                .unwrap_or_else(|| format!("known functions: {}", known.join(", ")));
            return Err(self.error(node, format!("unknown function {}", quoted(name))).hint(hint));
        };
        let takes = if call.target.is_some() { member } else { global };
        if *takes != Some(call.args.len()) {
            let forms = [
                global.map(|n| format!("{name}({})", vec!["VALUE"; n].join(", "))),
                member.map(|n| format!("VALUE.{name}({})", vec!["VALUE"; n].join(", "))),
            ];
            let forms: Vec<String> = forms.into_iter().flatten().collect();
            return Err(self
                .error(node, format!("`{name}` is called with the wrong number of arguments"))
                .hint(format!("write {}", forms.join(" or "))));
        }
        if name == "matches" {
            self.pattern(node, call)?;
        }
        Ok(())
    }

    fn pattern(&mut self, node: &IdedExpr, call: &CallExpr) -> Checking {
        let text = match call.args.last().map(|argument| &argument.expr) {
            Some(Expr::Literal(LiteralValue::String(text))) => text.inner(),
            _ => {
                return Err(self
                    .error(node, "the pattern of `matches` must be written out in quotes")
                    .hint(
                        "for a text that is computed use `contains`, `startsWith` or `endsWith`",
                    ));
            }
        };
        if self.found.patterns.iter().all(|pattern| pattern.text != text) {
            let pattern = compile(text).map_err(|message| self.error(node, message))?;
            self.found.patterns.push(pattern);
        }
        Ok(())
    }
}

/// Compiles a regular expression and finds out how large a program it becomes: in the worst case, such
/// as `(a|b)*a(a|b){400}c`, all of the program is looked at for each byte of text. The factor is
/// measured, so that [`super::MAX_COST`] steps of it take less than a second.
fn compile(text: &str) -> Result<Pattern, String> {
    const SMALLEST: usize = 8 << 10;
    const LARGEST: usize = 512 << 10;
    let mut size = SMALLEST;
    loop {
        let regex =
            RegexBuilder::new(text).size_limit(size).dfa_size_limit(1 << 20).nest_limit(50).build();
        match regex {
            Ok(regex) => {
                let cost = 128 * (size / SMALLEST) as u64;
                return Ok(Pattern { text: text.to_owned(), regex, cost });
            }
            Err(regex::Error::CompiledTooBig(_)) if size < LARGEST => size *= 2,
            Err(regex::Error::CompiledTooBig(_)) => {
                return Err("the regular expression is too large".to_owned());
            }
            Err(error) => {
                let lines = error.to_string();
                let reason = lines.lines().last().unwrap_or_default();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                return Err(format!("this is no regular expression: {reason}"));
            }
        }
    }
}

/// CEL's `matches`, with the patterns compiled beforehand.
pub(super) fn matches(
    patterns: &[Pattern],
    text: &Value,
    pattern: &Value,
) -> Result<bool, ExecutionError> {
    match (text, pattern) {
        (Value::String(text), Value::String(pattern)) => patterns
            .iter()
            .find(|known| known.text == **pattern)
            .map(|known| known.regex.is_match(text))
            .ok_or_else(|| ExecutionError::function_error("matches", "an unknown pattern")),
        _ => Err(ExecutionError::no_such_member_overload(
            "matches",
            vec![text.type_of().to_string(), pattern.type_of().to_string()],
        )),
    }
}

/// Refuses variables that are not `known`.
pub(super) fn variables(source: &str, needs: &[Need], known: &[&str]) -> Checking {
    for need in needs {
        let name = need.variable.as_str();
        if !known.contains(&name) {
            let hint = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| {
                if known.is_empty() {
                    "there are no variables here; a text needs quotes".to_owned()
                } else {
                    format!("known variables: {}", known.join(", "))
                }
            });
            let message = format!("unknown variable {}", quoted(name));
            return Err(ExpressionError::new(source, need.offset, message).hint(hint));
        }
    }
    Ok(())
}
