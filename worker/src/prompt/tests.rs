use super::*;

fn compile(source: &str) -> ChatTemplate {
    let special = SpecialTokens(vec![("bos_token".to_owned(), "<s>".to_owned())]);
    ChatTemplate::compile(source, &special).unwrap()
}

fn render(source: &str, messages: &str) -> Result<String, RequestFailure> {
    compile(source).render(&Conversation {
        messages: conversation::array("messages", messages)?,
        tools: None,
        variables: Map::new(),
    })
}

fn message_of(result: Result<String, RequestFailure>) -> String {
    match result {
        Err(RequestFailure::Template { message }) => message,
        other => panic!("not refused by the template: {other:?}"),
    }
}

#[test]
fn tojson_writes_what_python_writes() {
    let cases = [
        (r#"{"b":1,"a":[true,null,"x"]}"#, r#"{"b": 1, "a": [true, null, "x"]}"#),
        (r#"{"t":"<a href='x'>&\u00e9\u007f"}"#, "{\"t\": \"<a href='x'>&é\u{7f}\"}"),
        (r#""\u0001\b\f\n\r\t\"\\/""#, r#""\u0001\b\f\n\r\t\"\\/""#),
        ("[]", "[]"),
        ("{}", "{}"),
        (
            "[1.0,-0.0,0.1,1e16,123456789012345680.0,1e-5,0.0001,2.5e-7]",
            "[1.0, -0.0, 0.1, 1e+16, 1.2345678901234568e+17, 1e-05, 0.0001, 2.5e-07]",
        ),
        (
            "[1234567890123456789,18446744073709551615,-5]",
            "[1234567890123456789, 18446744073709551615, -5]",
        ),
    ];
    for (json, expected) in cases {
        let rendered = render("{{ messages[0] | tojson }}", &format!("[{json}]"));
        assert_eq!(rendered.unwrap(), expected, "{json}");
    }
}

#[test]
fn tojson_indents_as_python_does() {
    let rendered = render("{{ messages[0] | tojson(indent=4) }}", r#"[{"a":[1,{"b":[]}],"c":{}}]"#);
    let expected = "{\n    \"a\": [\n        1,\n        {\n            \"b\": []\n        }\n    ],\n    \"c\": {}\n}";
    assert_eq!(rendered.unwrap(), expected);
}

#[test]
fn what_a_template_raises_is_the_whole_message() {
    let source =
        "{% if messages[0].role != 'user' %}{{ raise_exception('user first!') }}{% endif %}";
    assert_eq!(message_of(render(source, r#"[{"role":"system"}]"#)), "user first!");
}

#[test]
fn other_failures_name_the_line() {
    let message = message_of(render("a\n{{ messages | nosuch }}", "[]"));
    assert!(message.contains("nosuch") && message.contains("line 2"), "{message}");
}

#[test]
fn a_template_that_never_ends_runs_out_of_fuel() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b %}{% endfor %}{% endfor %}";
    let message = message_of(render(source, "[]"));
    assert!(message.contains("too long"), "{message}");
}

#[test]
fn a_template_that_writes_without_end_is_stopped() {
    let source = "{% set long = 'x' * 100000 %}{% for a in range(9999) %}{{ long }}{% endfor %}";
    let message = message_of(render(source, "[]"));
    assert!(message.contains("33554432 bytes") || message.contains("write"), "{message}");
}

#[test]
fn special_tokens_python_methods_and_loop_controls_work() {
    let source = "{{ bos_token }}{% for m in messages %}{% if m.content.startswith('no') %}\
                  {% continue %}{% endif %}[{{ m['content'].strip().split(' ')[-1] | upper }}]\
                  {% endfor %}{% if add_generation_prompt %}>{% endif %}{% if tools is none %}-{% endif %}";
    let messages = r#"[{"content":" a b "},{"content":"no"},{"content":"c"}]"#;
    assert_eq!(render(source, messages).unwrap(), "<s>[B][C]>-");
}

#[test]
fn blocks_take_their_line_break_and_indentation_along() {
    let source = "{% for m in messages %}\n    {{- m.content }}\n  {% endfor %}\nend";
    assert_eq!(render(source, r#"[{"content":"x"},{"content":"y"}]"#).unwrap(), "x\ny\nend");
}

#[test]
fn generation_tags_render_as_their_content() {
    let source =
        "a {%- generation -%} b {%- endgeneration %} c {% generation %}d{% endgeneration %}";
    assert_eq!(render(source, "[]").unwrap(), "ab c d");
    assert_eq!(
        python::without_generation_tags("{% set generation = 1 %}"),
        "{% set generation = 1 %}"
    );
}

#[test]
fn the_date_follows_the_format() {
    let year = render("{{ strftime_now('%Y') }}", "[]").unwrap();
    assert!(year.len() == 4 && year.parse::<u32>().is_ok(), "{year}");
}

#[test]
fn messages_that_are_no_json_array_are_invalid() {
    for json in ["{}", "nonsense", ""] {
        assert!(matches!(render("x", json), Err(RequestFailure::Invalid { .. })), "{json}");
    }
}
