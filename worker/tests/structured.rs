//! Answers that must look like something: constraints, calls of tools, thoughts, at engine level.
//!
//! Mostly with tiny models of random weights at temperature 1: they keep to nothing by themselves.
#![expect(clippy::unwrap_used, reason = "a test that can't go on should panic")]

#[path = "structured/holds.rs"]
mod holds;
#[path = "structured/schemas.rs"]
mod schemas;

use std::{collections::BTreeMap, path::PathBuf};

use hearth_shared::{
    ids::RequestId,
    protocol::{
        Chat, Constraint, ExecutionProvider, Finish, FinishReason, FromWorker, Generate,
        GraphChoice, JsonText, LoadSpec, Part, Prompt, RequestFailure, Sampling, ToolChoice,
    },
};
use hearth_worker::{Loaded, load};
use serde_json::{Value, json};

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Loaded {
    loaded(&here().join("../tests/fixtures").join(name), 8)
}

#[expect(clippy::disallowed_methods, reason = "a test finds the runtime where the gateway would")]
fn loaded(model: &std::path::Path, slots: u32) -> Loaded {
    let home = std::env::var_os("HEARTH_HOME").map(PathBuf::from);
    let user = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".local/share/hearth");
    let library = home.unwrap_or_else(user).join("runtime/libonnxruntime.so");
    let library = library.canonicalize().expect("run `scripts/setup` first");
    let spec = LoadSpec {
        model_path: model.to_str().unwrap().to_owned(),
        runtime_library: library.to_str().unwrap().to_owned(),
        execution_provider: ExecutionProvider::Cpu,
        threads: None,
        context_length: None,
        slots: Some(slots),
        cuda_graphs: false,
        variant: None,
        graph: GraphChoice::Default,
    };
    load(&spec, |_stage, _fraction| {}).unwrap()
}

/// One choice, as it came.
#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    parts: Vec<Part>,
    finish: Option<Finish>,
    logprobs: usize,
}

impl Answer {
    fn text(&self) -> String {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            other => panic!("not text: {other:?}"),
        });
        texts.collect()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Every call with its arguments.
    fn calls(&self) -> Vec<(String, Value)> {
        let mut calls: Vec<(String, String)> = Vec::new();
        for part in &self.parts {
            match part {
                Part::ToolCall { index, name } => {
                    assert_eq!(usize::try_from(*index).unwrap(), calls.len());
                    calls.push((name.clone(), String::new()));
                }
                Part::ToolArguments { index, json } => {
                    assert_eq!(usize::try_from(*index).unwrap() + 1, calls.len());
                    calls.last_mut().unwrap().1.push_str(json);
                }
                other => panic!("no part of a call: {other:?}"),
            }
        }
        calls.into_iter().map(|(name, json)| (name, serde_json::from_str(&json).unwrap())).collect()
    }

    fn reason(&self) -> FinishReason {
        self.finish.unwrap().reason
    }
}

/// Runs all requests at once; gives the answers by request and choice.
fn run(loaded: &mut Loaded, requests: Vec<Generate>) -> BTreeMap<(u64, u32), Answer> {
    let mut waiting = (0..)
        .zip(requests)
        .map(|(id, request)| (id, loaded.preparer.prepare(RequestId(id), request).unwrap()));
    for (_, prepared) in waiting.by_ref() {
        loaded.engine.admit(prepared).unwrap();
    }
    let mut answers: BTreeMap<(u64, u32), Answer> = BTreeMap::new();
    while !loaded.engine.is_idle() {
        for message in loaded.engine.tick() {
            let FromWorker::Step(news) = message else { panic!("{message:?}") };
            for news in news {
                let answer = answers.entry((news.id.0, news.choice)).or_default();
                answer.parts.extend(news.parts);
                answer.logprobs += news.logprobs.len();
                answer.finish = news.finish;
            }
        }
    }
    answers
}

fn wild(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() }
}

fn constrained(prompt: Prompt, constraint: Constraint, seed: u64) -> Generate {
    Generate {
        constraint: Some(constraint),
        sampling: wild(seed),
        max_tokens: Some(900),
        ..Generate::new(prompt)
    }
}

fn schema(schema: &Value) -> Constraint {
    Constraint::JsonSchema(JsonText(schema.to_string()))
}

fn user(text: &str) -> Chat {
    Chat::new(JsonText(json!([{"role": "user", "content": text}]).to_string()))
}

/// How many of the answers to so many schemas satisfy them, and how many were cut.
fn count_valid(
    loaded: &mut Loaded,
    count: u64,
    prompt: impl Fn(&Value) -> Prompt,
) -> (usize, usize) {
    let schemas: Vec<_> = (0..count).map(schemas::schema).collect();
    let requests =
        (0..).zip(&schemas).map(|(seed, it)| constrained(prompt(it), schema(it), seed)).collect();
    let answers = run(loaded, requests);
    let mut cut = 0;
    for (schema, answer) in schemas.iter().zip(answers.values()) {
        if answer.reason() == FinishReason::Length {
            cut += 1;
            continue;
        }
        let value: Value = serde_json::from_str(&answer.text())
            .unwrap_or_else(|error| panic!("{error}\n{schema}\n{}", answer.text()));
        if let Err(problem) = holds::holds(schema, &value) {
            panic!("{problem}\n{schema}\n{value}");
        }
    }
    (answers.len() - cut, cut)
}

#[test]
fn a_hundred_schemas_hold_for_a_model_that_knows_nothing() {
    let mut loaded = fixture("tiny-llama-genai-fp32");
    assert_eq!(count_valid(&mut loaded, 100, |_| Prompt::raw("The river runs")), (100, 0));
}

#[test]
fn schemas_hold_for_a_real_model() {
    let Some(mut loaded) = smollm2() else { return };
    let prompt = |_: &Value| Prompt::Chat(user("Give an example as JSON."));
    assert_eq!(count_valid(&mut loaded, 8, prompt), (8, 0));
}

/// SmolLM2 in the layout of onnxruntime-genai, where a developer has it beside the project.
fn smollm2() -> Option<Loaded> {
    let beside = here().join("../../shared/models/smollm2-135m-instruct-genai-int4");
    beside.is_dir().then(|| loaded(&beside, 8))
}

#[test]
fn free_and_constrained_answers_share_a_batch() {
    let mut model = fixture("tiny-llama-genai-fp32");
    let free = || Generate {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(40),
        ..Generate::new(Prompt::raw("A letter to the"))
    };
    let alone = run(&mut model, vec![free()]).remove(&(0, 0)).unwrap().text();
    let regex = Constraint::Regex("(ab|cd){3,6}!".to_owned());
    let lark = Constraint::Lark("start: \"<\" start \">\" | /[0-9]{2}/".to_owned());
    let requests = vec![
        constrained(Prompt::raw("x"), regex, 1),
        free(),
        constrained(Prompt::raw("y"), lark, 2),
    ];
    let answers = run(&mut model, requests);
    assert_eq!(answers[&(1, 0)].text(), alone);
    let text = answers[&(0, 0)].text();
    let pairs = text.strip_suffix('!').unwrap();
    assert!(matches!(pairs.len(), 6..=12), "{text}");
    assert_eq!(pairs.replace("ab", "").replace("cd", ""), "");
    assert_eq!(answers[&(0, 0)].reason(), FinishReason::Stop);
    let text = answers[&(2, 0)].text();
    let inner = text.trim_start_matches('<').trim_end_matches('>');
    assert!(inner.len() == 2 && inner.parse::<u8>().is_ok(), "{text}");
    assert_eq!(text.matches('<').count(), text.matches('>').count());
}

#[test]
fn choices_seeds_and_probabilities_work_under_a_constraint() {
    let mut model = fixture("tiny-llama-genai-fp32");
    let word = Constraint::Regex("[a-z]{12}".to_owned());
    let request = || Generate {
        choices: 3,
        logprobs: Some(2),
        ..constrained(Prompt::raw("x"), word.clone(), 5)
    };
    let first = run(&mut model, vec![request()]);
    let texts: Vec<_> = first.values().map(Answer::text).collect();
    assert!(texts.iter().all(|text| text.len() == 12), "{texts:?}");
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    for answer in first.values() {
        let tokens = answer.finish.unwrap().completion_tokens;
        assert_eq!(u32::try_from(answer.logprobs).unwrap(), tokens);
    }
    let times = |answer: &Answer| (answer.text(), answer.logprobs);
    let again = run(&mut model, vec![request()]);
    assert!(first.values().map(times).eq(again.values().map(times)));
}

#[test]
fn limits_and_stop_texts_cut_a_constrained_answer() {
    let mut model = fixture("tiny-llama-genai-fp32");
    let long = || Constraint::Regex("[ab]{400}".to_owned());
    let limited = Generate { max_tokens: Some(5), ..constrained(Prompt::raw("x"), long(), 1) };
    let stopped =
        Generate { stop: vec!["b".to_owned()], ..constrained(Prompt::raw("x"), long(), 1) };
    let answers = run(&mut model, vec![limited, stopped]);
    assert_eq!(answers[&(0, 0)].reason(), FinishReason::Length);
    assert_eq!(answers[&(0, 0)].finish.unwrap().completion_tokens, 5);
    assert_eq!(answers[&(1, 0)].reason(), FinishReason::Stop);
    assert!(answers[&(1, 0)].text().chars().all(|character| character == 'a'));
}

#[test]
fn a_constraint_that_nothing_satisfies_fails_before_it_runs() {
    let model = fixture("tiny-llama-genai-fp32");
    let never = json!({"type": "string", "not": {}});
    let request = constrained(Prompt::raw("x"), schema(&never), 1);
    let Err(RequestFailure::Constraint { message }) = model.preparer.prepare(RequestId(1), request)
    else {
        panic!("it was prepared");
    };
    assert_eq!(message, "`not` can't be enforced (in the JSON schema)");
}

fn tools() -> JsonText {
    JsonText(
        json!([
            {"type": "function", "function": {"name": "get_weather", "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 10}, "days": {"enum": [1, 2]}},
                "required": ["city", "days"]}}},
            {"type": "function", "function": {"name": "now"}},
        ])
        .to_string(),
    )
}

fn offered(choice: ToolChoice, parallel: bool, seed: u64) -> Generate {
    let chat = Chat {
        tools: Some(tools()),
        tool_choice: choice,
        parallel_tool_calls: parallel,
        ..user("How is the weather in Rome?")
    };
    Generate { sampling: wild(seed), max_tokens: Some(900), ..Generate::new(Prompt::Chat(chat)) }
}

fn check_calls(answer: &Answer) {
    assert_eq!(answer.reason(), FinishReason::ToolCalls);
    for (name, arguments) in answer.calls() {
        if name == "now" {
            assert_eq!(arguments, json!({}));
        } else {
            assert_eq!(name, "get_weather");
            assert!(arguments["city"].as_str().unwrap().chars().count() <= 10);
            assert!(matches!(arguments["days"].as_u64(), Some(1 | 2)));
        }
    }
}

const KNOWS_TOOLS: &str = "tiny-qwen3-genai-fp32";

/// A model whose template has no section for tools.
fn without_tools() -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(here().join("../tests/fixtures/tiny-llama-genai-fp32")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
                    {{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    loaded(folder.path(), 8)
}

#[test]
fn a_call_that_is_required_comes_whatever_the_model_would_say() {
    for (mut model, knows_tools) in [(fixture(KNOWS_TOOLS), true), (without_tools(), false)] {
        assert_eq!(model.card.tools, knows_tools);
        let required = (0..8).map(|seed| offered(ToolChoice::Required, false, seed));
        let answers = run(&mut model, required.collect());
        for answer in answers.values() {
            check_calls(answer);
            assert_eq!(answer.calls().len(), 1);
        }
        let function = ToolChoice::Function("get_weather".to_owned());
        let chosen = (0..4).map(|seed| offered(function.clone(), true, seed));
        let answers = run(&mut model, chosen.collect());
        for answer in answers.values() {
            check_calls(answer);
            let names: Vec<_> = answer.calls().into_iter().map(|call| call.0).collect();
            assert_eq!(names, ["get_weather"]);
        }
    }
}

#[test]
fn one_answer_may_call_several_times() {
    let mut model = fixture(KNOWS_TOOLS);
    let required = (0..24).map(|seed| offered(ToolChoice::Required, true, seed));
    let answers = run(&mut model, required.collect());
    // Sixteen calls may be more than the small context takes.
    let whole = answers.values().filter(|answer| answer.reason() != FinishReason::Length);
    let counts: Vec<_> = whole
        .map(|answer| {
            check_calls(answer);
            answer.calls().len()
        })
        .collect();
    assert!(counts.iter().any(|&count| (2..=16).contains(&count)), "{counts:?}");
}

#[test]
fn a_constraint_beside_tools_leaves_the_choice_between_them() {
    let mut model = fixture(KNOWS_TOOLS);
    let requests = (0..16).map(|seed| {
        let constraint =
            Some(schema(&json!({"type": "array", "items": {"const": 1}, "maxItems": 2})));
        Generate { constraint, ..offered(ToolChoice::Auto, false, seed) }
    });
    let answers = run(&mut model, requests.collect());
    let (calls, texts): (Vec<_>, Vec<_>) =
        answers.values().partition(|answer| answer.reason() == FinishReason::ToolCalls);
    calls.iter().for_each(|answer| check_calls(answer));
    assert!(texts.iter().all(|answer| answer.json().as_array().unwrap().len() <= 2));
    assert!(!calls.is_empty() && !texts.is_empty(), "{} {}", calls.len(), texts.len());
}

#[test]
fn a_choice_of_tools_that_makes_no_sense_is_refused() {
    let model = fixture(KNOWS_TOOLS);
    let prepare = |request| match model.preparer.prepare(RequestId(1), request) {
        Err(RequestFailure::Invalid { message }) => message,
        other => panic!("not refused: {other:?}"),
    };
    let unknown = offered(ToolChoice::Function("nobody".to_owned()), true, 1);
    assert_eq!(prepare(unknown), "`nobody` is to be called, but is none of the tools");
    let mut chat = user("?");
    chat.tool_choice = ToolChoice::Required;
    let none = Generate::new(Prompt::Chat(chat.clone()));
    assert_eq!(prepare(none), "a tool is to be called, but there are none");
    chat.tool_choice = ToolChoice::Auto;
    chat.template_variables = Some(JsonText(r#"{"messages": []}"#.to_owned()));
    let reserved = Generate::new(Prompt::Chat(chat));
    assert_eq!(prepare(reserved), "template variables can't set `messages`");
}

#[test]
fn tools_are_in_the_prompt_of_every_model() {
    for (model, knows_tools) in [(fixture(KNOWS_TOOLS), true), (without_tools(), false)] {
        let Prompt::Chat(mut chat) = offered(ToolChoice::Auto, true, 1).prompt else { panic!() };
        chat.messages = JsonText(
            json!([
                {"role": "user", "content": "How is the weather?"},
                {"role": "assistant", "tool_calls": [
                    {"id": "1", "function": {"name": "now", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "noon"},
            ])
            .to_string(),
        );
        let text = model.preparer.prompt_text(&Prompt::Chat(chat)).unwrap();
        for word in
            ["get_weather", "<tool_call>", "{\"name\": \"now\", \"arguments\": {\"a\": 1}}", "noon"]
        {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert_eq!(text.contains("You have these tools"), !knows_tools, "{text}");
    }
}

#[test]
fn a_real_model_calls_the_tool_that_it_has_to_call() {
    let Some(mut loaded) = smollm2() else { return };
    assert!(!loaded.card.tools && !loaded.card.thinking);
    let mut request = offered(ToolChoice::Function("get_weather".to_owned()), true, 1);
    request.sampling.temperature = 0.0;
    let answers = run(&mut loaded, vec![request]);
    check_calls(&answers[&(0, 0)]);
    assert_eq!(answers[&(0, 0)].calls()[0].1["city"], "Rome");
}
