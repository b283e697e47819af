use serde_json::json;

use super::*;

fn all(messages: &Value) -> Vec<Value> {
    normalise(messages.as_array().unwrap()).unwrap()
}

fn one(message: &Value) -> Value {
    all(&json!([message])).remove(0)
}

#[test]
fn content_becomes_one_string_whatever_it_was() {
    for (content, expected) in [
        (json!(null), ""),
        (json!("x"), "x"),
        (json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "a\nb"),
        (json!([{"type": "refusal", "refusal": "no"}]), "no"),
        (json!(["a", "b"]), "a\nb"),
        (json!([]), ""),
    ] {
        let message = one(&json!({"role": "user", "content": content}));
        assert_eq!(message, json!({"role": "user", "content": expected}));
    }
    let refused = one(&json!({"role": "assistant", "content": null, "refusal": "no"}));
    assert_eq!(refused, json!({"role": "assistant", "content": "no"}));
}

#[test]
fn roles_are_those_that_templates_know() {
    for (given, known) in [
        ("developer", "system"),
        ("system", "system"),
        ("function", "tool"),
        ("ipython", "tool"),
        ("assistant", "assistant"),
    ] {
        assert_eq!(one(&json!({"role": given, "content": "x"}))["role"], known);
    }
}

#[test]
fn thoughts_have_one_name_whatever_they_were_called() {
    for message in [
        json!({"reasoning_content": "hm", "content": "x"}),
        json!({"reasoning": "hm", "content": "x"}),
        json!({"thinking": "hm", "content": "x"}),
        json!({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]}),
    ] {
        let mut message = message;
        message["role"] = json!("assistant");
        let expected = json!({"role": "assistant", "content": "x", "reasoning_content": "hm"});
        assert_eq!(one(&message), expected);
    }
}

#[test]
fn calls_and_results_find_each_other_however_little_they_say() {
    let normal = all(&json!([
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"function": {"name": "g", "arguments": {"y": [2]}}},
            {"function": {"name": "h"}},
        ]},
        {"role": "tool", "tool_name": "h", "content": "3"},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "of nothing"},
    ]));
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        normal[0]["tool_calls"],
        json!([
            call("a", "f", "{\"x\":1}"),
            call("call_0_1", "g", "{\"y\":[2]}"),
            call("call_0_2", "h", "{}")
        ])
    );
    let results: Vec<_> = normal[1..].iter().map(|m| (&m["tool_call_id"], &m["name"])).collect();
    let (null, text) = (json!(null), |text: &str| json!(text));
    assert_eq!(results[0], (&text("call_0_2"), &text("h")));
    assert_eq!(results[1], (&text("a"), &text("f")));
    assert_eq!(results[2], (&text("call_0_1"), &text("g")));
    assert_eq!(results[3], (&null, &null));
}

#[test]
fn the_first_form_of_calls_becomes_the_present_one() {
    let normal = all(&json!([
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]));
    assert_eq!(
        normal,
        [
            json!({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_0_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
            json!({"role": "tool", "content": "1", "tool_call_id": "call_0_0", "name": "f"}),
        ]
    );
}

#[test]
fn a_long_role_is_not_repeated_at_length() {
    let error = normalise(&[json!({"role": "x".repeat(100_000)})]).unwrap_err().to_string();
    assert!(error.ends_with(&format!("not \"{}", "x".repeat(39))), "{} chars", error.len());
}

#[test]
fn what_is_wrong_is_named_with_its_index() {
    let calls = |calls: Value| json!({"role": "assistant", "tool_calls": calls});
    for (message, param) in [
        (json!("hi"), ""),
        (json!({"content": "hi"}), ".role"),
        (json!({"role": "oracle", "content": "hi"}), ".role"),
        (json!({"role": "user", "content": 5}), ".content"),
        (json!({"role": "user", "content": [{"type": "image_url"}]}), ".content"),
        (json!({"role": "user", "content": [{"type": "text"}]}), ".content"),
        (calls(json!({})), ".tool_calls"),
        (calls(json!([5])), ".tool_calls[0].function.name"),
        (calls(json!([{"function": {"name": ""}}])), ".tool_calls[0].function.name"),
        (
            calls(json!([{"function": {"name": "f", "arguments": [1]}}])),
            ".tool_calls[0].function.arguments",
        ),
    ] {
        let fine = json!({"role": "user", "content": "x"});
        let error = normalise(&[fine, message.clone()]).unwrap_err();
        let expected = format!("messages[1]{param}");
        assert_eq!(error.openai_body()["error"]["param"], expected, "{message}");
    }
}
