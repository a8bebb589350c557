//! Expressions as a whole: what they mean, what is refused, and that nothing hostile gets far.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::base::diagnostic::{Findings, Source};
use crate::base::document::{Decode, decode, read_documents};

fn sample() -> Json {
    json!({
        "list": [1, 2, 3],
        "texts": ["a", "bb", "a"],
        "negative": -1,
        "big": u64::MAX,
        "half": 0.5,
        "nil": null,
        "text": "Grüße",
        "inner": {"x": {"y": 7}},
        "nested": [[1], [2, 3], []],
    })
}

fn evaluate(source: &str) -> Result<Json, EvaluationError> {
    let sample = sample();
    let context = Context::new().with("v", &sample).with_bytes("body", b"\x00\xffab");
    let expression = Expression::parse_with(source, &["v", "body"])
        .unwrap_or_else(|error| panic!("{source}: {error:?}"));
    expression.evaluate(&context)
}

#[test]
fn expressions_mean_what_cel_says() {
    let table = [
        ("1 + 2 * 3", json!(7)),
        ("v.list[0] + v.negative", json!(0)),
        ("type(v.list[0]) == int && type(v.big) == uint && type(v.half) == double", json!(true)),
        ("v.list.map(x, x * 2)", json!([2, 4, 6])),
        ("v.list.filter(x, x > 1).map(y, string(y))", json!(["2", "3"])),
        ("v.list.map(x, x > 1, x)", json!([2, 3])),
        ("v.nested.exists(l, l.all(x, x > 1) && size(l) == 2)", json!(true)),
        ("v.texts.exists_one(t, t == 'bb')", json!(true)),
        ("v.nested.map(l, l.map(x, x + 1))", json!([[2], [3, 4], []])),
        ("v.inner.x.y", json!(7)),
        ("v['inner']['x'].y", json!(7)),
        ("has(v.nothing) || has(v.inner.x)", json!(true)),
        ("'text' in v && 2 in v.list", json!(true)),
        ("v.text.startsWith('Gr') && v.text.contains('üß') && v.text.endsWith('e')", json!(true)),
        ("v.text.matches('^Gr[üu]') && matches(v.text, 'ße$')", json!(true)),
        ("size(v.text)", json!(5)),
        ("size(body) == 4 && size(v) == 9", json!(true)),
        ("body", json!("AP9hYg==")),
        ("1 == 1.0 && 1u == 1", json!(true)),
        ("v.negative < 0 ? 'less' : 'more'", json!("less")),
        ("{'b': 1, 'a': [2u, null]}", json!({"a": [2, null], "b": 1})),
        ("int('12') + int(1.9)", json!(13)),
        ("v.nothing == 1 || true", json!(true)),
        ("v.nil == null", json!(true)),
        ("// a comment\n 1", json!(1)),
    ];
    for (source, expected) in table {
        assert_eq!(evaluate(source), Ok(expected), "{source}");
    }
    let Ok(Json::Object(whole)) = evaluate("v") else { panic!("the variable itself") };
    assert_eq!(Json::Object(whole), sample());
}

#[test]
fn what_cannot_be_evaluated_says_why_without_the_values() {
    let table = [
        ("v.nothing", "there is no key `nothing`"),
        ("v.inner.nothing.y", "there is no key `nothing`"),
        ("v['nothing'] == 1", "there is no key `nothing`"),
        ("v.list[5]", "the index lies outside of the list"),
        ("v.text < 1", "`<` does not take string and int"),
        ("v.text + 1", "`+` does not take string and int"),
        ("v.text && true", "`&&` does not take string and bool"),
        ("!v.text", "`!` does not take string"),
        ("v.list.contains(1)", "`contains` does not take list and int"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "the result of `+` is too large a number"),
        ("1.0 / 0.0", "the result is no finite number"),
        ("int(v.text)", "`int` cannot take this value"),
        ("v.list.matches('a')", "`matches` does not take list and string"),
        ("v.text.map(x, x)", "iterable is needed, and something else is there"),
        ("{1: 2, 1: 3}", "a key of the map is there twice"),
    ];
    for (source, expected) in table {
        let error = evaluate(source).expect_err(source);
        assert_eq!(error.to_string(), expected, "{source}");
    }
    assert_eq!(evaluate("v.a"), Err(EvaluationError::MissingKey { key: "a".to_owned() }));

    let expression = Expression::parse("v.a").unwrap();
    let value = json!({"a": "x"});
    let context = Context::new().with("v", &value);
    assert_eq!(
        expression.evaluate_bool(&context).map_err(|error| error.to_string()),
        Err("the condition is text, neither true nor false".to_owned())
    );
    assert_eq!(
        expression.evaluate_bool(&Context::new()),
        Err(EvaluationError::UnknownVariable { name: "v".to_owned() })
    );
    let value = json!({"a": false});
    assert_eq!(expression.evaluate_bool(&Context::new().with("v", &value)), Ok(false));
}

#[test]
fn what_is_no_expression_is_refused_with_its_place() {
    let table = [
        ("", 0, "the expression is empty", ""),
        ("1 +", 3, "the expression ends too early", ""),
        ("a ? b", 0, "the expression is incomplete", ""),
        ("'ä' + (", 7, "the expression ends too early", ""),
        ("'ää' @", 5, "`@` is not expected here", ""),
        ("v\n  v", 4, "`v` is not expected here", ""),
        ("v = 1", 2, "`= ` is not expected here", "`==` compares"),
        ("v and v", 2, "`and` is not expected here", "write `&&`"),
        (
            "'a\nb'",
            0,
            "`'a\u{fffd}` is not expected here",
            "a text ends on the line on which it begins, with the same quote",
        ),
        (
            "v.matches('\\w')",
            10,
            "`'\\w` is not expected here",
            "a text with backslashes is written r'…'",
        ),
        ("9999999999999999999999", 0, "this is no expression: invalid int literal", ""),
        ("v{a: 1}", 1, "there are no message types here", "write a map: {\"key\": value}"),
        ("'ä' == strng(1)", 7, "unknown function `strng`", "did you mean `string`?"),
        ("v.startWith('a')", 2, "unknown function `startWith`", "did you mean `startsWith`?"),
        (
            "size()",
            0,
            "`size` is called with the wrong number of arguments",
            "write size(VALUE) or VALUE.size()",
        ),
        (
            "contains('a', 'b')",
            0,
            "`contains` is called with the wrong number of arguments",
            "write VALUE.contains(VALUE)",
        ),
        ("v.all(x)", 2, "`all` is used wrongly", "write LIST.all(x, CONDITION)"),
        ("has(v)", 4, "this is no expression: invalid argument to has() macro", ""),
        ("1 + messag.x", 4, "unknown variable `messag`", "did you mean `message`?"),
        ("v.map(x, y)", 9, "unknown variable `y`", "known variables: v, message"),
        ("v.map(x, x)[0] == x", 18, "unknown variable `x`", "known variables: v, message"),
        (
            "v.matches(v)",
            2,
            "the pattern of `matches` must be written out in quotes",
            "for a text that is computed use `contains`, `startsWith` or `endsWith`",
        ),
        ("v.matches('a(b')", 2, "this is no regular expression: unclosed group", ""),
        ("v.matches('((a{1000}){1000}){1000}')", 2, "the regular expression is too large", ""),
        (
            "v.map(a, v.map(b, v.map(c, 1)))",
            23,
            "`all`, `exists`, `map` and `filter` are nested deeper than 2 levels",
            "",
        ),
        ("\0", 0, "a NUL character stands in the expression", ""),
    ];
    for (source, offset, message, hint) in table {
        let error = Expression::parse_with(source, &["v", "message"]).expect_err(source);
        assert_eq!(
            (error.message.as_str(), error.offset, error.hint.as_deref().unwrap_or("")),
            (message, offset, hint),
            "{source:?}"
        );
    }
    let error = Expression::parse("v &&\n  ä").unwrap_err();
    assert_eq!((error.line, error.column), (2, 3));
    assert_eq!(
        Expression::parse_with("x", &[]).unwrap_err().hint.as_deref(),
        Some("there are no variables here; a text needs quotes")
    );
}

#[test]
fn only_what_is_used_is_converted() {
    let needs = |source: &str| Expression::parse(source).unwrap().needs.to_vec();
    let fields = |source: &str| needs(source)[0].fields.clone();
    assert_eq!(
        fields("v.a.b == 1 && has(v.c) && v['d'] == 2 && v.a == 1"),
        Some(vec!["a".to_owned(), "c".to_owned(), "d".to_owned()])
    );
    assert_eq!(fields("v.a == v"), None);
    assert_eq!(fields("v.a[0] == v[1]"), None);
    assert_eq!(fields("v.map(x, x.a)"), None);
    assert_eq!(needs("[1].map(v, v.a)").len(), 0);
    let variables: Vec<String> =
        Expression::parse("a.x + b + a.y").unwrap().variables().map(str::to_owned).collect();
    assert_eq!(variables, ["a", "b"]);
}

#[test]
fn templates_mix_text_and_expressions() {
    let value = json!({"region": "eu", "n": 3, "on": true, "list": [1], "nil": null});
    let context = Context::new().with("v", &value);
    let table = [
        ("", json!("")),
        ("plain $ text $", json!("plain $ text $")),
        ("orders.${ v.region }.x", json!("orders.eu.x")),
        ("${v.region}${v.n}-${v.on}", json!("eu3-true")),
        ("${ v.n }", json!(3)),
        ("${ v.list }", json!([1])),
        ("${ v.nil }", json!(null)),
        (" ${ v.n }", json!(" 3")),
        ("$${ v.n }", json!("${ v.n }")),
        ("$$${ v.n }", json!("$${ v.n }")),
        ("${ {'a}': \"}\"}['a}'] }!", json!("}!")),
        ("${ '\\'}' }x", json!("'}x")),
        (r#"${ r'\' + "\"}" }x"#, json!("\\\"}x")),
        ("${ '''a'}b''' }x", json!("a'}bx")),
        ("${ 1 // } not here\n }x", json!("1x")),
        ("ü${ v.n }ü", json!("ü3ü")),
    ];
    for (source, expected) in table {
        let template = Template::parse_with(source, &["v"])
            .unwrap_or_else(|error| panic!("{source}: {error:?}"));
        assert_eq!(template.evaluate(&context), Ok(expected), "{source}");
    }
    assert_eq!(Template::parse("a$${b").unwrap().as_constant(), Some("a${b"));
    assert_eq!(Template::parse("a${b}").unwrap().as_constant(), None);
    assert_eq!(
        Template::parse("x${ v.list }").unwrap().evaluate(&context).map_err(|e| e.to_string()),
        Err("`${ v.list }` is a list, and text is needed".to_owned())
    );
    for (source, offset, message) in [
        ("ä${ v.n", 1, "the `${` is not closed"),
        ("ä${ 'a} }", 1, "the `${` is not closed"),
        ("ä${ 1 + }", 8, "the expression ends too early"),
        ("ä${}", 3, "the expression is empty"),
        ("ä${ v } ${ v } ${ w }", 18, "unknown variable `w`"),
    ] {
        let error = Template::parse_with(source, &["v"]).expect_err(source);
        assert_eq!((error.message.as_str(), error.offset), (message, offset), "{source}");
    }
}

#[test]
fn expressions_in_documents_show_their_place() {
    let text =
        "a: v.x >\nb: \"ä${ v + }\"\nc: [1, '${ v.n }', {k: x}]\nd: true\ne: {}\nf: |\n  v v\n";
    let node = read_documents(&Source::new("t.yaml", text)).unwrap().remove(0);
    let wrong = |key: &str| -> String {
        let node = node.get(key).unwrap();
        let findings = if key == "b" {
            decode::<Template>(node).unwrap_err()
        } else {
            decode::<Expression>(node).unwrap_err()
        };
        let finding = findings.0[0].clone();
        let span = finding.span.unwrap();
        format!("{}:{}+{} {}", span.line, span.column, span.width, finding.message)
    };
    // Right after the end there is nothing to mark, so the whole text is.
    assert_eq!(wrong("a"), "1:4+5 the expression ends too early");
    assert_eq!(wrong("b"), "2:13+1 the expression ends too early");
    assert_eq!(wrong("e"), "5:4+1 expected text with an expression, found a mapping");
    assert_eq!(wrong("f"), "7:3+1 `v` is not expected here");
    assert_eq!(decode::<Expression>(node.get("d").unwrap()).unwrap().source(), "true");

    let tree = TemplateTree::decode(node.get("c").unwrap(), &mut Findings::default()).unwrap();
    let value = json!({"n": 5});
    assert_eq!(tree.evaluate(&Context::new().with("v", &value)), Ok(json!([1, 5, {"k": "x"}])));
    assert_eq!(tree.expressions().len(), 1);
    assert_eq!(serde_json::to_value(&tree).unwrap(), json!([1, "${ v.n }", {"k": "x"}]));
}

/// What must be answered at once, whatever the answer: reading and evaluating `source`. The worst
/// takes some 0.6 s without optimisation; the bound leaves room for a machine that is busy.
#[track_caller]
fn answered_at_once(source: &str, value: &Json) -> Option<Result<Json, EvaluationError>> {
    let begin = Instant::now();
    let context = Context::new().with("v", value);
    let answer = Expression::parse(source).ok().map(|expression| expression.evaluate(&context));
    let spent = begin.elapsed();
    assert!(spent < Duration::from_secs(5), "{spent:?} for {source:.200}");
    answer
}

#[test]
fn deep_and_long_sources_do_not_overflow_the_stack() {
    // A thread of the default size: 2 MiB, as the threads of a runtime have.
    let checked = std::thread::spawn(|| {
        for n in [10, 30, 60, 100, 300, 600, 1000, 2000, 5000] {
            for (before, between, after) in [
                ("(", "1", ")"),
                ("[", "1", "]"),
                ("{1:", "1", "}"),
                ("size(", "1", ")"),
                ("!", "true", ""),
                ("-", "1", ""),
                ("1+", "1", ""),
                ("1==", "1", ""),
                ("true&&", "true", ""),
                ("true?1:", "1", ""),
                ("true?", "1", ":1"),
                ("", "v", ".a"),
                ("", "v", "[0]"),
                ("", "v", ".size()"),
                ("", "v", "(1)"),
                ("", "v", ".map(x,x)"),
                ("v.map(x,", "x", ")"),
                ("'", "a", "'"),
                ("a{b:", "1", "}"),
                ("// ", "", "\n"),
                ("\"", "", ""),
            ] {
                let source = before.repeat(n) + between + &after.repeat(n);
                answered_at_once(&source, &json!({"a": [1]}));
            }
        }
    });
    assert!(checked.join().is_ok());
    assert_eq!(evaluate(&format!("{}1{}", "(".repeat(32), ")".repeat(32))), Ok(json!(1)));
    assert_eq!(evaluate(&("1+".repeat(50) + "1")), Ok(json!(51)));
}

#[test]
fn hostile_expressions_are_refused_before_they_are_evaluated() {
    let numbers: Vec<u64> = (0..10_000).collect();
    let texts: Vec<String> = (0..1000).map(|n| n.to_string().repeat(100)).collect();
    let value = json!({"n": numbers, "t": texts, "long": "x".repeat(1 << 20), "s": [1, 2, 3],
        "mid": "x".repeat(400_000), "ab": "ab".repeat(200_000), "short": "ab".repeat(1000)});
    let doubled = vec!["v.long"; 30].join("+");
    for source in [
        "v.n.map(a, v.n.map(b, 1))",
        "v.n.all(a, v.n.all(b, a + b >= 0))",
        "v.n.exists(a, v.n.exists(b, a + b < 0))",
        "v.n.map(a, v.n)",
        "v.t.map(a, v.t.map(b, a + b))",
        "v.n.map(a, v.long)",
        "v.n.filter(a, v.long.contains('y'))",
        "v.n.map(a, v.long.matches('y'))",
        "v.n.map(a, [v.n, v.n]).map(b, b[0].map(c, c))",
        "v.n.map(a, v.long + v.long)",
        "v.s.map(a, v.n.map(b, v.n))",
        "v.n.map(a, a in v.n)",
        "v.n.map(a, string(v.n))",
        "v.long.matches('(x+x+)+y{0,1000}')",
        "v.ab.matches('(a|b)*a(a|b){400}c')",
        "v.long.matches('[a-z]{500}[0-9]{500}$')",
        doubled.as_str(),
    ] {
        match answered_at_once(source, &value) {
            Some(Err(EvaluationError::TooCostly { cost })) => assert!(cost > MAX_COST),
            other => panic!("{source:.100}: {:.200}", format!("{other:?}")),
        }
    }
    for source in [
        "v.n.exists(a, a == 9999)",
        "v.n.filter(a, a % 2 == 0).size()",
        "v.s.map(a, v.n.all(b, b >= 0))",
        "v.long.contains('y')",
        "v.mid.matches('^x+y')",
        "v.ab.matches('(?i)(a|b)*a(a|b){40}c')",
        "v.short.matches(r'^[\\w.]{2,9}$')",
        "v.long + v.long == ''",
        "size(v.t.map(a, a + a)) == 1000",
        "v.n.map(a, a in v.s)",
    ] {
        match answered_at_once(source, &value) {
            Some(Ok(_)) => {}
            other => panic!("{source:.100}: {:.200}", format!("{other:?}")),
        }
    }
}

/// What a patient attacker would put together out of all that is allowed.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "v", "v.n", "v.t", "v.long", "v.m", "v.s", "1", "'a'", "x", "y", "[1, 2]", "true", "1.5",
        "{'a': 1}", "b'a'", "null", "x[0]", "y.a", "-3", "7u",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 3, |inner| {
        let unary = prop::sample::select(vec![
            "(_)",
            "!(_)",
            "-(_)",
            "size(_)",
            "string(_)",
            "bytes(_)",
            "int(_)",
            "double(_)",
            "bool(_)",
            "uint(_)",
            "type(_)",
            "dyn(_)",
            "[_]",
            "{'a': _}",
            "(_).matches('(a|x)*b')",
            "(_).matches('\\\\w{2,9}$')",
            "(_)[0]",
            "(_).a",
            "has((_).a)",
            "[_, _]",
            "(_) + (_)",
        ]);
        let binary = prop::sample::select(vec![
            "(_) + (@)",
            "(_) == (@)",
            "(_) < (@)",
            "(_) in (@)",
            "(_) && (@)",
            "(_) || (@)",
            "(_).contains(@)",
            "(_).startsWith(@)",
            "(_)[@]",
            "[_, @]",
            "{_: @}",
            "(_) % (@)",
            "(_).map(x, @)",
            "(_).map(y, @)",
            "(_).filter(x, @)",
            "(_).all(y, @)",
            "(_).exists(x, @)",
            "(_).exists_one(y, @)",
            "true ? (_) : (@)",
            "(_).map(x, true, @)",
        ]);
        prop_oneof![
            (unary, inner.clone()).prop_map(|(form, a)| form.replace('_', &a)),
            (binary, inner.clone(), inner)
                .prop_map(|(form, a, b)| form.replace('_', &a).replace('@', &b)),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_allowed_is_answered_at_once(source in expressions()) {
        let numbers: Vec<u64> = (0..3000).collect();
        let texts: Vec<String> = (0..300).map(|n| n.to_string().repeat(100)).collect();
        let value = json!({
            "n": numbers, "t": texts, "long": "x".repeat(200_000), "s": [1, 2, 3],
            "m": {"a": [[1, 2], ["x"]], "b": {"a": null}},
        });
        answered_at_once(&source, &value);
    }

    #[test]
    fn no_text_makes_it_panic(source in any::<String>()) {
        answered_at_once(&source, &json!({"a": 1}));
        let _ = Template::parse(&source);
    }

    #[test]
    fn no_signs_make_it_panic(source in "[-+*/%!?:=<>&|.,()\\[\\]{}\"'`\\\\a-cvx0-9re \\n$ä]{0,40}") {
        answered_at_once(&source, &json!({"a": 1}));
        let _ = Template::parse(&source);
        let _ = Template::parse(&format!("${{{source}"));
    }

    #[test]
    fn no_damage_makes_it_panic(source in expressions(), at: prop::sample::Index, c: char, cut: bool) {
        let mut chars: Vec<char> = source.chars().collect();
        let at = at.index(chars.len());
        if cut { chars.truncate(at); } else { chars[at] = c; }
        answered_at_once(&chars.into_iter().collect::<String>(), &json!({"a": 1}));
    }

    #[test]
    fn any_text_reads_back_through_a_template(text: String) {
        let escaped = text.replace("${", "$${");
        let template = Template::parse(&escaped).unwrap();
        prop_assert_eq!(template.as_constant(), Some(text.as_str()));
    }
}
