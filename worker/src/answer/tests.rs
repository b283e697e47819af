use proptest::prelude::*;

use super::*;

const HERMES: CallFormat = CallFormat::Hermes;

fn calls(format: CallFormat) -> Reading {
    let names = ["get_weather", "now"].map(str::to_owned);
    let calls = Calls { format, names: Arc::new(names), single: false };
    Reading { calls: Some(calls), ..Reading::default() }
}

fn thoughts() -> Reading {
    Reading {
        thoughts: Some(ThoughtTags { open: "<think>", close: "</think>" }),
        ..Reading::default()
    }
}

fn everything(format: CallFormat, thinks_already: bool) -> Reading {
    Reading { calls: calls(format).calls, thinks_already, ..thoughts() }
}

/// All parts of the pieces, those of a kind that follow each other joined.
fn read(reading: &Reading, pieces: &[&str]) -> Vec<Part> {
    let mut reader = Reader::new(reading.clone());
    let mut whole: Vec<Part> = Vec::new();
    let parts: Vec<_> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
    for part in parts.into_iter().chain(reader.finish()) {
        match (whole.last_mut(), part) {
            (Some(Part::Text(last)), Part::Text(more))
            | (Some(Part::Reasoning(last)), Part::Reasoning(more)) => *last += &more,
            (
                Some(Part::ToolArguments { json: last, index: one }),
                Part::ToolArguments { json, index },
            ) if *one == index => *last += &json,
            (_, part) => whole.push(part),
        }
    }
    whole
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn thought(text: &str) -> Part {
    Part::Reasoning(text.to_owned())
}

fn call(index: u32, name: &str, json: &str) -> [Part; 2] {
    [
        Part::ToolCall { index, name: name.to_owned() },
        Part::ToolArguments { index, json: json.to_owned() },
    ]
}

fn check(reading: &Reading, cases: &[(&str, Vec<Part>)]) {
    for (answer, expected) in cases {
        assert_eq!(&read(reading, &[answer]), expected, "{answer}");
        let letters: Vec<_> = answer.split("").collect();
        assert_eq!(&read(reading, &letters), expected, "letter by letter: {answer}");
    }
}

#[test]
fn hermes_calls_are_told_from_text() {
    let weather = r#"<tool_call>
{"name": "get_weather", "arguments": {"city": "Łódź", "days": [1, 2]}}
</tool_call>"#;
    let arguments = r#"{"city": "Łódź", "days": [1, 2]}"#;
    let one = call(0, "get_weather", arguments).to_vec();
    let now = r#"<tool_call>{"name":"now","arguments":{}}</tool_call>"#;
    let both = [call(0, "get_weather", arguments), call(1, "now", "{}")].concat();
    check(
        &calls(HERMES),
        &[
            (weather, one.clone()),
            (
                &format!("Let me see.\n\n{weather}\n"),
                [vec![text("Let me see.")], one.clone()].concat(),
            ),
            (&format!("{weather}\n{now}"), both.clone()),
            (&format!("{weather}{now}\n"), both),
            (&format!("{weather}\n\nDone."), [one.clone(), vec![text("Done.")]].concat()),
            // Without an end, because the answer is over.
            (weather.split("\n</").next().unwrap(), one),
            // Two in one tag.
            (
                r#"<tool_call>{"name":"now","arguments":{}}{"name":"now","arguments":{"a":1}}</tool_call>"#,
                [call(0, "now", "{}"), call(1, "now", r#"{"a":1}"#)].concat(),
            ),
        ],
    );
}

#[test]
fn other_ways_to_write_a_call_are_understood() {
    check(
        &calls(HERMES),
        &[
            (
                r#"<tool_call>{"arguments": {"a": {"b": 2}}, "name": "now"}</tool_call>"#,
                call(0, "now", r#"{"a": {"b": 2}}"#).to_vec(),
            ),
            (
                r#"<tool_call>{"name": "now", "arguments": "{\"a\": 1}"}</tool_call>"#,
                call(0, "now", r#"{"a": 1}"#).to_vec(),
            ),
            (r#"<tool_call>{"name": "now"}</tool_call>"#, call(0, "now", "{}").to_vec()),
            (
                r#"<tool_call>{"id": 7, "name": "now", "arguments": null}</tool_call>"#,
                call(0, "now", "{}").to_vec(),
            ),
        ],
    );
}

#[test]
fn what_only_looks_like_a_call_stays_text() {
    let cases = [
        "a < b <tool> <tool_cal",
        "<tool_call>",
        "<tool_call>no object</tool_call>",
        "  <tool_call>{}</tool_call>",
        r#"<tool_call>{"name": "unknown", "arguments": {}}</tool_call>"#,
        r#"<tool_call>{"name": "now", "arguments": [1]}</tool_call>"#,
        r#"<tool_call>{"name": 1}</tool_call>"#,
        r#"<tool_call>{"name": "now", "argum"#,
        r#"{"name": "now", "arguments": {}}"#,
        "\n\n",
        "",
    ];
    for case in cases {
        let expected = if case.is_empty() { vec![] } else { vec![text(case)] };
        check(&calls(HERMES), &[(case, expected)]);
    }
    let real = r#"<tool_call><tool_call>{"name":"now"}</tool_call>"#;
    let expected = [vec![text("<tool_call>")], call(0, "now", "{}").to_vec()].concat();
    check(&calls(HERMES), &[(real, expected)]);
    let long = format!("<tool_call>{{\"x\": \"{}", "y".repeat(40_000));
    assert_eq!(read(&calls(HERMES), &[&long]), [text(&long)]);
}

#[test]
fn arguments_that_stop_being_json_are_passed_on_as_they_are() {
    let broken = r#"<tool_call>{"name": "now", "arguments": {"a": oops <b>}}</tool_call> end"#;
    let expected = [call(0, "now", r#"{"a": oops <b>}}"#).to_vec(), vec![text("end")]].concat();
    check(&calls(HERMES), &[(broken, expected)]);
    let cut = r#"<tool_call>{"name": "now", "arguments": {"a": "b"#;
    check(&calls(HERMES), &[(cut, call(0, "now", r#"{"a": "b"#).to_vec())]);
}

#[test]
fn arguments_go_out_as_they_come() {
    let mut reader = Reader::new(calls(HERMES));
    assert_eq!(reader.push("Hm <tool"), [text("Hm")]);
    assert_eq!(reader.push("_call>\n{\"name\": \"now\", \"argu"), []);
    let begun = reader.push("ments\": {\"a");
    assert_eq!(begun, call(0, "now", "{\"a"));
    let more = Part::ToolArguments { index: 0, json: "\": 1".to_owned() };
    assert_eq!(reader.push("\": 1"), [more]);
    assert!(reader.has_calls() && !reader.is_over());
}

#[test]
fn text_is_held_back_no_longer_than_needed() {
    let mut reader = Reader::new(calls(HERMES));
    assert_eq!(reader.push("a"), [text("a")]);
    assert_eq!(reader.push(" <"), []);
    assert_eq!(reader.push("t"), []);
    assert_eq!(reader.push("x "), [text(" <tx")]);
    assert_eq!(reader.push("y"), [text(" y")]);
    assert_eq!(reader.finish(), []);
}

#[test]
fn an_answer_that_may_call_once_is_over_after_the_call() {
    let mut reading = calls(HERMES);
    if let Some(calls) = &mut reading.calls {
        calls.single = true;
    }
    let mut reader = Reader::new(reading);
    assert_eq!(reader.push(r#"<tool_call>{"name":"now","arguments":{}"#), call(0, "now", "{}"));
    assert!(!reader.is_over());
    assert_eq!(reader.push("}</tool_call><tool_call>"), []);
    assert!(reader.is_over());
    assert_eq!(reader.finish(), []);
}

#[test]
fn llama_calls_need_no_marker_at_the_beginning() {
    let arguments = r#"{"city": "Rome"}"#;
    let object = format!(r#"{{"name": "get_weather", "parameters": {arguments}}}"#);
    let one = call(0, "get_weather", arguments).to_vec();
    check(
        &calls(CallFormat::Llama),
        &[
            (&object, one.clone()),
            (&format!("\n{object}"), one.clone()),
            (&format!("<|python_tag|>{object}"), one.clone()),
            (&format!("Sure: {object}"), vec![text(&format!("Sure: {object}"))]),
            (
                &format!("{object}; {object}"),
                [call(0, "get_weather", arguments), call(1, "get_weather", arguments)].concat(),
            ),
            (
                r#"{"type": "function", "name": "now", "parameters": {}}"#,
                call(0, "now", "{}").to_vec(),
            ),
            (r#"{"answer": 42}"#, vec![text(r#"{"answer": 42}"#)]),
        ],
    );
}

#[test]
fn mistral_calls_are_a_list_after_the_marker() {
    let list = r#"[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"a": 1}, "id": "x"}]"#;
    let expected = [call(0, "now", "{}"), call(1, "get_weather", r#"{"a": 1}"#)].concat();
    check(
        &calls(CallFormat::Mistral),
        &[
            (list, expected.clone()),
            (&format!("Yes. {list}"), [vec![text("Yes.")], expected].concat()),
            ("[TOOL_CALLS] none", vec![text("[TOOL_CALLS] none")]),
            ("[1, 2]", vec![text("[1, 2]")]),
        ],
    );
}

#[test]
fn mistral_names_may_come_first() {
    let named = r#"[TOOL_CALLS]now[ARGS]{"a": 1}[TOOL_CALLS]get_weather[CALL_ID]x1[ARGS]{}"#;
    let expected = [call(0, "now", r#"{"a": 1}"#), call(1, "get_weather", "{}")].concat();
    check(
        &calls(CallFormat::MistralNamed),
        &[
            (named, expected),
            (r#"[TOOL_CALLS]now{"a": 1}"#, call(0, "now", r#"{"a": 1}"#).to_vec()),
            (r#"[TOOL_CALLS] [{"name": "now", "arguments": {}}]"#, call(0, "now", "{}").to_vec()),
            (r#"[TOOL_CALLS]nobody[ARGS]{}"#, vec![text(r#"[TOOL_CALLS]nobody[ARGS]{}"#)]),
        ],
    );
}

#[test]
fn phi_calls_are_a_list_between_markers() {
    let list = r#"<|tool_call|>[{"name": "now", "arguments": {}}]<|/tool_call|>"#;
    check(&calls(CallFormat::Phi), &[(list, call(0, "now", "{}").to_vec())]);
}

#[test]
fn thoughts_are_told_from_the_answer() {
    let open = Reading { thinks_already: true, ..thoughts() };
    let parts = vec![thought("Hm,\n2 < 3."), text("Yes.\n")];
    check(
        &thoughts(),
        &[
            ("<think>\nHm,\n2 < 3.\n</think>\n\nYes.\n", parts.clone()),
            ("\n<think>Hm,\n2 < 3.</think>Yes.\n", parts.clone()),
            ("<think>\n\n</think>\n\nYes.", vec![text("Yes.")]),
            ("Yes <think>no</think>", vec![text("Yes <think>no</think>")]),
            ("<think>Hm", vec![thought("Hm")]),
            ("<think>Hm</thin", vec![thought("Hm</thin")]),
            (" <thin", vec![text(" <thin")]),
            ("<think>a</think><think>b</think>", vec![thought("a"), text("<think>b</think>")]),
        ],
    );
    check(
        &open,
        &[
            ("Hm,\n2 < 3.\n</think>\n\nYes.\n", parts.clone()),
            ("<think>\nHm,\n2 < 3.\n</think>\n\nYes.\n", parts),
            ("Hm \n", vec![thought("Hm")]),
        ],
    );
}

#[test]
fn thoughts_may_be_followed_by_calls() {
    let answer = "<think>Which?</think>\n\n<tool_call>{\"name\":\"now\"}</tool_call>";
    let expected = [vec![thought("Which?")], call(0, "now", "{}").to_vec()].concat();
    check(&everything(HERMES, false), &[(answer, expected)]);
    let inner = "<tool_call>{\"name\":\"now\"}</tool_call></think>No.";
    let expected = vec![thought("<tool_call>{\"name\":\"now\"}</tool_call>"), text("No.")];
    check(&everything(HERMES, true), &[(inner, expected)]);
}

#[test]
fn where_nothing_is_read_everything_is_text() {
    let answer = "<think>a</think> <tool_call>{\"name\":\"now\"}</tool_call>\n";
    check(&Reading::default(), &[(answer, vec![text(answer)])]);
}

/// Answers made of what matters to readers, in any order.
fn answers() -> impl Strategy<Value = String> {
    let pieces = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|python_tag|>",
        r#"{"name": "now", "arguments": {"a": "é}"}}"#,
        r#"{"name":"get_weather","parameters":{}}"#,
        r#"{"name": "now", "arguments": {"a": x}}"#,
        "{\"arguments\": {}, \"name\": \"now\"}",
        "{",
        "}",
        "[",
        "]",
        ",",
        "now",
        "<",
        " ",
        "\n",
        "Text.",
        "é😀",
        "\"",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..9).prop_map(|all| all.concat())
}

proptest! {
    #[test]
    fn the_parts_do_not_depend_on_how_text_is_cut(
        answer in answers(),
        cuts in prop::collection::vec(0_usize..200, 0..6),
        format in 0_usize..5,
        opened in any::<bool>(),
    ) {
        let formats = [
            HERMES, CallFormat::Llama, CallFormat::Mistral, CallFormat::MistralNamed, CallFormat::Phi,
        ];
        let reading = everything(formats[format], opened);
        let whole = read(&reading, &[&answer]);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| answer.floor_char_boundary(cut)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            pieces.push(&answer[start..cut]);
            start = cut;
        }
        pieces.push(&answer[start..]);
        prop_assert_eq!(read(&reading, &pieces), whole);
    }

    #[test]
    fn nothing_but_markers_and_space_is_lost(answer in answers()) {
        let spoken = |parts: Vec<Part>| -> String {
            parts.into_iter().map(|part| match part {
                Part::Text(text) | Part::Reasoning(text) => text,
                Part::ToolCall { name, .. } => name,
                Part::ToolArguments { json, .. } => json,
            }).collect()
        };
        let said = spoken(read(&everything(HERMES, false), &[&answer]));
        // Every word that is not part of a call's frame comes out.
        for word in ["Text.", "é😀"] {
            prop_assert_eq!(said.matches(word).count(), answer.matches(word).count(), "{}", said);
        }
    }
}

#[test]
fn templates_give_their_dialect_away() {
    let cases = [
        ("{% if tools %}<tool_call>{% endif %}", Some(HERMES), false),
        ("{% if tools %}<tool_call><function=x>{% endif %}", None, false),
        ("{{ messages }}<tool_call>", None, false),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", Some(CallFormat::Mistral), false),
        ("{% if tools %}[TOOL_CALLS]x[ARGS]{% endif %}", Some(CallFormat::MistralNamed), false),
        ("{% if tools %}Environment: ipython{% endif %}", Some(CallFormat::Llama), false),
        ("{% if tools %}<|tool_call|>{% endif %}", Some(CallFormat::Phi), false),
        ("{{ content.split('</think>')[-1] }}", None, true),
        ("{{ messages }}", None, false),
    ];
    for (template, calls, thinks) in cases {
        let dialect = Dialect::of(template);
        assert_eq!((dialect.calls, dialect.thoughts.is_some()), (calls, thinks), "{template}");
    }
    let markers: Vec<_> = Dialect::of("tools [TOOL_CALLS] [ARGS] </think>").markers().collect();
    assert_eq!(markers, ["[TOOL_CALLS]", "[ARGS]", "<think>", "</think>"]);
}
