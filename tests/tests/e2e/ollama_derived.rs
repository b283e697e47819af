//! Models that are made of others, and other names of models.

use std::path::PathBuf;

use hearth_tests::gateway::{Gateway, Home};
use hearth_tests::http::{self, Answer};
use hearth_tests::patiently;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::home;

async fn create(gateway: &Gateway, body: &Value) -> Answer {
    gateway.post("/api/create", body).await
}

async fn delete(gateway: &Gateway, model: &str) -> (StatusCode, String) {
    let body = json!({ "model": model }).to_string();
    let answer = http::send(gateway.address, Method::DELETE, "/api/delete", &[], body).await;
    (answer.status, answer.text().await)
}

async fn error(answer: Answer) -> (StatusCode, String) {
    let status = answer.status;
    (status, answer.json().await["error"].as_str().unwrap().to_owned())
}

async fn show(gateway: &Gateway, model: &str) -> Value {
    gateway.post("/api/show", &json!({ "model": model })).await.json().await
}

/// Of every model: its name and what it is made of.
async fn tags(gateway: &Gateway) -> Vec<(String, String)> {
    let tags = gateway.get("/api/tags").await.json().await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let models = tags["models"].as_array().unwrap();
    let mut tags: Vec<_> = models
        .iter()
        .map(|model| (text(&model["name"]), text(&model["details"]["parent_model"])))
        .collect();
    tags.sort();
    tags
}

async fn ids(gateway: &Gateway) -> Vec<String> {
    let models = gateway.get("/v1/models").await.json().await;
    let data = models["data"].as_array().unwrap();
    data.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

fn pair(name: &str, parent: &str) -> (String, String) {
    (name.to_owned(), parent.to_owned())
}

fn helper() -> Value {
    json!({
        "model": "helper", "from": "m", "stream": false, "system": "Be brief.",
        "parameters": {"temperature": 0.25, "num_predict": 7, "num_ctx": 99, "stop": ["END"]},
        "messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}],
        "license": "MIT",
    })
}

#[tokio::test]
async fn a_derived_model_is_its_models_worker_asked_in_another_way() {
    let gateway = home().start_fake(&[], &[]).await;
    let made = create(&gateway, &helper()).await;
    assert_eq!(made.json().await, json!({"status": "success"}));
    assert_eq!(tags(&gateway).await, [pair("helper:latest", "m:latest"), pair("m:latest", "")]);
    assert_eq!(ids(&gateway).await, ["helper", "m"]);
    let hi = json!([{"role": "user", "content": "hi"}]);
    let ask = |model: &str| json!({"model": model, "messages": hi.clone(), "stream": false});
    let around = r#"[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"content\":\"1\",\"role\":\"user\"},{\"content\":\"2\",\"role\":\"assistant\"},{\"role\":\"user\",\"content\":\"hi\"}]"#;
    let answer = gateway.post("/api/chat", &ask("helper:latest")).await.json().await;
    assert_eq!(answer["model"], "helper:latest");
    let mut worker = gateway.stage.next_worker().await;
    let work = worker.next_work().await;
    assert!(work.contains(around), "{work}");
    for part in ["temperature: 0.25", "max_tokens: Some(7)", "context_max: Some(99)", "\"END\""] {
        assert!(work.contains(part), "{part}: {work}");
    }
    let answer = gateway.post("/v1/chat/completions", &ask("helper")).await.json().await;
    assert_eq!(answer["model"], "helper");
    let work = worker.next_work().await;
    assert!(work.contains(around) && work.contains("max_tokens: Some(7)"), "{work}");
    let responses = json!({"model": "helper", "input": "hi", "temperature": 0.75});
    gateway.post("/v1/responses", &responses).await.json().await;
    let work = worker.next_work().await;
    assert!(work.contains(around) && work.contains("temperature: 0.75"), "{work}");
    let generate = json!({"model": "helper", "prompt": "hi", "stream": false});
    gateway.post("/api/generate", &generate).await.text().await;
    assert!(worker.next_work().await.contains(around));
    gateway.post("/api/chat", &ask("m")).await.text().await;
    let work = worker.next_work().await;
    assert!(!work.contains("Be brief") && work.contains("max_tokens: None"), "{work}");
    // One process for both, under the name of whose files it holds.
    assert!(!gateway.stage.has_another().await);
    assert_eq!(gateway.reaches("idle").await["name"], "m:latest");
    let unload = json!({"model": "helper", "keep_alive": 0});
    assert_eq!(gateway.post("/api/generate", &unload).await.json().await["done_reason"], "unload");
    gateway.is_empty().await;
}

#[tokio::test]
async fn what_a_derived_model_lays_over_its_model_is_shown() {
    let gateway = home().start_fake(&[], &[]).await;
    create(&gateway, &helper()).await.text().await;
    let shown = show(&gateway, "helper").await;
    assert_eq!((&shown["system"], &shown["license"]), (&json!("Be brief."), &json!("MIT")));
    assert_eq!(shown["details"]["parent_model"], "m:latest");
    assert_eq!(shown["messages"], helper()["messages"]);
    let parameters = shown["parameters"].as_str().unwrap();
    let lines: Vec<&str> = parameters.lines().collect();
    let expected = ["num_ctx                        99", "num_predict                    7"];
    assert_eq!(lines[..2], expected, "{parameters}");
    let modelfile = shown["modelfile"].as_str().unwrap();
    assert!(modelfile.starts_with("FROM m:latest\nSYSTEM \"\"\"Be brief.\"\"\"\n"), "{modelfile}");
    assert!(modelfile.contains("PARAMETER stop \"END\"\n"), "{modelfile}");
    // Made of a derived one, it is made of the same model, and changes what it says.
    let body = json!({"model": "me/second", "from": "helper", "system": "Be long."});
    create(&gateway, &body).await.text().await;
    let shown = show(&gateway, "me/second").await;
    assert_eq!((&shown["system"], &shown["messages"]), (&json!("Be long."), &helper()["messages"]));
    assert_eq!(shown["details"]["parent_model"], "m:latest");
    // A plain one says nothing of its own.
    let plain = show(&gateway, "m").await;
    assert_eq!(plain["modelfile"], "FROM m:latest\n");
    assert_eq!((plain.get("system"), plain.get("parameters")), (None, None));
}

#[tokio::test]
async fn a_model_stays_while_others_are_made_of_it() {
    let gateway = home().start_fake(&[], &[]).await;
    create(&gateway, &helper()).await.text().await;
    let copy = json!({"source": "helper", "destination": "twin"});
    assert_eq!(gateway.post("/api/copy", &copy).await.status, StatusCode::OK);
    assert_eq!(show(&gateway, "twin").await["system"], "Be brief.");
    let (status, message) = delete(&gateway, "m").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let needed =
        "'helper', 'twin' are made of 'm' and would not work without it; delete that first";
    assert_eq!(message, json!({ "error": needed }).to_string());
    assert_eq!(delete(&gateway, "twin").await.0, StatusCode::OK);
    // Its files can go in other ways, and then it says why it does not work, and can be deleted.
    std::fs::remove_dir_all(gateway.home().join("models/m")).unwrap();
    let body = json!({"model": "helper", "prompt": "hi"});
    let expected = "the model 'helper' does not exist; it is made of 'm', which is not there; put \
                    that back, or delete this";
    patiently("the model to be missed", async {
        while error(gateway.post("/api/generate", &body).await).await.1 != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(tags(&gateway).await, []);
    assert_eq!(delete(&gateway, "helper").await.0, StatusCode::OK);
    assert!(!gateway.home().join("models/helper.model.toml").exists());
}

#[tokio::test]
async fn a_name_is_made_anew_unless_it_has_files() {
    let gateway = home().start_fake(&[], &[]).await;
    create(&gateway, &helper()).await.text().await;
    let again = json!({"model": "helper", "from": "m", "system": "Be kind."});
    assert_eq!(create(&gateway, &again).await.status, StatusCode::OK);
    assert_eq!(show(&gateway, "helper").await["system"], "Be kind.");
    let over = json!({"model": "m", "from": "m", "system": "Be kind."});
    let (status, message) = error(create(&gateway, &over).await).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(message, "there is a model 'm' already; delete it first");
}

#[tokio::test]
async fn a_template_has_to_be_one_that_the_model_can_be_written_to_with() {
    let gateway = home().start_fake(&[], &[]).await;
    let with = |template: &str| json!({"model": "t", "from": "m", "template": template});
    let jinja = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}";
    assert_eq!(create(&gateway, &with(jinja)).await.status, StatusCode::OK);
    let shown = show(&gateway, "t").await;
    assert_eq!(shown["template"], jinja);
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    let mut worker = gateway.stage.next_worker().await;
    gateway.post("/api/generate", &json!({"model": "t", "prompt": "hi"})).await.text().await;
    let work = worker.next_work().await;
    assert!(work.contains("template: Some(\"{% for m in"), "{work}");
    let (status, message) = error(create(&gateway, &with("{% broken %}")).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(message.ends_with("the fake template refuses, as told"), "{message}");
    let (status, message) = error(create(&gateway, &with("{{ .Prompt }}")).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(message.starts_with("`template` is in Go's language"), "{message}");
    // What failed changed nothing.
    assert_eq!(show(&gateway, "t").await["template"], jinja);
    for refused in ["adapters", "quantize", "renderer"] {
        let body = json!({"model": "x", "from": "m", refused: "y"});
        let (status, message) = error(create(&gateway, &body).await).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(message.contains(&format!("`{refused}`")), "{message}");
    }
}

#[tokio::test]
async fn files_that_come_with_a_recipe_are_a_variant_of_its_name() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let file = fixtures.join("gguf/tiny-llama-q4_1.gguf");
    let gateway = home().start_fake(&[], &[]).await;
    let body = json!({"model": "mine", "from": file.to_str().unwrap(), "system": "s"});
    assert_eq!(create(&gateway, &body).await.status, StatusCode::OK);
    let expected =
        [pair("m:latest", ""), pair("mine:latest", "mine:weights"), pair("mine:weights", "")];
    assert_eq!(tags(&gateway).await, expected);
    // Where the recipe can't be kept, the files are not either.
    let body = json!({"model": "m", "from": file.to_str().unwrap(), "system": "s"});
    assert_eq!(create(&gateway, &body).await.status, StatusCode::CONFLICT);
    assert_eq!(tags(&gateway).await, expected);
}

#[tokio::test]
async fn a_model_answers_to_the_names_that_the_configuration_gives_it() {
    let home = home().with_config("[aliases]\n\"gpt-4o-mini\" = \"m\"\n'gone' = 'nothing'\n");
    let gateway = home.start_fake(&[], &[]).await;
    assert_eq!(ids(&gateway).await, ["gpt-4o-mini", "m"]);
    assert_eq!(
        tags(&gateway).await,
        [pair("gpt-4o-mini:latest", "m:latest"), pair("m:latest", "")]
    );
    let answer = gateway.chat("gpt-4o-mini", json!({})).await.json().await;
    assert_eq!(answer["model"], "gpt-4o-mini");
    let one = gateway.get("/v1/models/gpt-4o-mini").await.json().await;
    assert_eq!(one["id"], "gpt-4o-mini");
    assert_eq!(gateway.reaches("idle").await["name"], "m:latest");
    let missing = gateway.chat("gone", json!({})).await.json().await["error"].clone();
    assert_eq!(
        missing["message"],
        "the model 'gone' does not exist; hearth.toml has it as another name of 'nothing', which is \
         not there"
    );
    let (status, message) = delete(&gateway, "gpt-4o-mini").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(message.contains("under [aliases] in hearth.toml"), "{message}");
    let taken = create(&gateway, &json!({"model": "gpt-4o-mini", "from": "m"})).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn other_names_are_read_anew_with_the_configuration() {
    let gateway = home().start_fake(&[], &[]).await;
    let config = gateway.home().join("hearth.toml");
    patiently("the new name to be known", async {
        while ids(&gateway).await != ["llama3.2", "m"] {
            // Written again and again: the gateway may not have looked for the first time yet.
            std::fs::write(&config, "[aliases]\n'llama3.2:latest' = 'm'\n").unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_for_some_models_may_use_their_other_names_and_no_derived_ones() {
    let config = "api_key = 'all'\n[aliases]\nother = 'm'\n\
                  [[keys]]\nname = 'some'\nkey = 'some'\nmodels = ['m']\n";
    let gateway = home().with_config(config).start_fake(&[], &[]).await;
    let send = async |key: &str, method: Method, path: &str, body: String| {
        let bearer = format!("Bearer {key}");
        http::send(gateway.address, method, path, &[("authorization", &bearer)], body).await
    };
    let made = send("all", Method::POST, "/api/create", helper().to_string()).await;
    assert_eq!(made.status, StatusCode::OK);
    let models = send("some", Method::GET, "/v1/models", String::new()).await.json().await;
    let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["m", "other"]);
    let ask = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        send("some", Method::POST, "/v1/chat/completions", body.to_string()).await.status
    };
    assert_eq!((ask("other").await, ask("helper").await), (StatusCode::OK, StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn a_key_for_derived_models_sees_what_runs_under_their_names() {
    let config = "api_key = 'all'\n[aliases]\nother = 'm'\n\
                  [[keys]]\nname = 'some'\nkey = 'some'\nmodels = ['helper', 'other']\n";
    let gateway = home().with_config(config).start_fake(&[], &[]).await;
    let send = async |key: &str, path: &str, body: Option<Value>| {
        let bearer = format!("Bearer {key}");
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let body = body.map_or_else(String::new, |body| body.to_string());
        http::send(gateway.address, method, path, &[("authorization", &bearer)], body).await
    };
    let made = send("all", "/api/create", Some(helper())).await;
    assert_eq!(made.status, StatusCode::OK);
    let loaded = json!({"model": "helper", "prompt": "", "stream": false});
    assert_eq!(send("some", "/api/generate", Some(loaded)).await.status, StatusCode::OK);
    let entries = async |key: &str, path: &str| {
        let models = send(key, path, None).await.json().await["models"].clone();
        let fact = |model: &Value| {
            (
                model["name"].clone(),
                model["digest"].clone(),
                model["details"]["parent_model"].clone(),
            )
        };
        let mut facts: Vec<_> = models.as_array().unwrap().iter().map(fact).collect();
        facts.sort_by_key(|(name, ..)| name.to_string());
        facts
    };
    let seen = entries("some", "/api/ps").await;
    let names: Vec<_> = seen.iter().map(|(name, _, of)| (name.clone(), of.clone())).collect();
    assert_eq!(
        names,
        [(json!("helper:latest"), json!("m:latest")), (json!("other:latest"), json!("m:latest"))]
    );
    // Clients put the two lists together.
    assert_eq!(seen, entries("some", "/api/tags").await);
    let all = entries("all", "/api/ps").await;
    assert_eq!(all.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>(), ["m:latest"]);
}

#[tokio::test]
async fn tokens_are_counted_of_what_a_derived_model_is_asked() {
    let gateway = home().start_fake(&[], &[]).await;
    assert_eq!(create(&gateway, &helper()).await.status, StatusCode::OK);
    let count = async |model: &str, path: &str, field: &str, mut body: Value| {
        body["model"] = json!(model);
        gateway.post(path, &body).await.json().await[field].as_u64().unwrap()
    };
    let hi = json!([{"role": "user", "content": "hi"}]);
    for (path, field, body) in [
        ("/tokenize", "count", json!({"messages": hi})),
        ("/v1/responses/input_tokens", "input_tokens", json!({"input": "hi"})),
    ] {
        let plain = count("m", path, field, body.clone()).await;
        let around = count("helper", path, field, body).await;
        assert!(around > plain, "{path}: {around} and {plain}");
    }
    // A text alone has nothing around it.
    let text = json!({"content": "hi"});
    assert_eq!(count("helper", "/tokenize", "count", text).await, 2);
}

#[tokio::test]
async fn a_recipe_that_makes_no_sense_is_no_model_and_harms_no_other() {
    let home: Home = home();
    std::fs::write(home.path().join("models/bad.model.toml"), "from = 'm'\nsytem = 's'").unwrap();
    let gateway = home.start_fake(&[], &[]).await;
    assert_eq!(ids(&gateway).await, ["m"]);
    let missing = gateway.chat("bad", json!({})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}
