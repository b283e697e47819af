use std::collections::HashMap;

use hearth_shared::protocol::{ExecutionProvider, GraphChoice};

use super::*;
use crate::keep_alive::{KeepAlive, KeepAlivePolicy};

fn load(variables: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigError> {
    let home = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        std::fs::write(home.path().join("hearth.toml"), text).unwrap();
    }
    let mut map: HashMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    map.insert("HEARTH_HOME".to_owned(), home.path().into());
    Config::load(&|name| map.get(name).cloned())
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.expect_err("it should be refused").to_string()
}

#[test]
fn without_anything_the_defaults_hold() {
    let config = load(&[], None).unwrap();
    assert_eq!(config.host.to_string(), "127.0.0.1:11434");
    assert_eq!(config.api_key, None);
    let models = &config.models.defaults;
    assert_eq!(models.keep_alive, KeepAlivePolicy::of(KeepAlive::For(Duration::from_secs(300))));
    assert_eq!(
        (models.execution_provider, models.graph),
        (ExecutionProvider::Auto, GraphChoice::Default)
    );
    assert_eq!((models.threads, models.slots, models.context_length), (None, None, None));
    assert!(config.models.by_name.is_empty());
    assert_eq!(config.memory, crate::fleet::memory::default_budget());
    assert_eq!((config.device_memory, config.max_models), (None, None));
    assert_eq!(config.swap_after, Duration::from_secs(10));
    assert_eq!((config.max_queue, config.max_connections), (512, 1024));
    let seconds = [
        config.queue_timeout,
        config.load_timeout,
        config.hang_timeout,
        config.grace_period,
        config.drain_timeout,
    ];
    assert_eq!(seconds.map(|d| d.as_secs()), [600, 300, 60, 5, 30]);
    assert_eq!(config.runtime_library, config.home.join("runtime").join(default_library()));
    assert_eq!(config.worker.file_stem().unwrap(), "hearth-worker");
    assert_eq!(config.worker_environment, []);
}

/// For each key a value in the file, another in the environment, and how both read.
fn observed(name: &str, config: &Config) -> String {
    let models = &config.models.defaults;
    let seconds = |bound: Option<KeepAlive>| bound.map(KeepAlive::as_seconds);
    match name {
        "host" => config.host.to_string(),
        "api_key" => config.api_key.as_ref().map_or("", |key| key.expose()).to_owned(),
        "allowed_hosts" => config.allowed_hosts.join("+"),
        "allowed_origins" => config.allowed_origins.join("+"),
        "keep_alive" => models.keep_alive.default.as_seconds().to_string(),
        "keep_alive_min" => format!("{:?}", seconds(models.keep_alive.min)),
        "keep_alive_max" => format!("{:?}", seconds(models.keep_alive.max)),
        "keep_alive_client" => models.keep_alive.ignores_clients.to_string(),
        "execution_provider" => models.execution_provider.as_str().to_owned(),
        "graph" => models.graph.as_str().to_owned(),
        "cuda_graphs" => models.cuda_graphs.to_string(),
        "threads" => format!("{:?}", models.threads),
        "slots" => format!("{:?}", models.slots),
        "context_length" => format!("{:?}", models.context_length),
        "memory" => format!("{:?}", config.memory),
        "device_memory" => format!("{:?}", config.device_memory),
        "max_models" => format!("{:?}", config.max_models),
        "swap_after" => config.swap_after.as_secs().to_string(),
        "max_queue" => config.max_queue.to_string(),
        "queue_timeout" => config.queue_timeout.as_secs().to_string(),
        "load_timeout" => config.load_timeout.as_secs().to_string(),
        "hang_timeout" => config.hang_timeout.as_secs().to_string(),
        "grace_period" => config.grace_period.as_secs().to_string(),
        "drain_timeout" => config.drain_timeout.as_secs().to_string(),
        "max_connections" => config.max_connections.to_string(),
        "runtime_library" => config.runtime_library.display().to_string(),
        "worker" => config.worker.display().to_string(),
        "hf_endpoint" => config.hf_endpoint.clone(),
        "hf_token" => config.hf_token.as_ref().map_or("", |token| token.expose()).to_owned(),
        "log" => config.log.clone(),
        other => panic!("no test observes {other}"),
    }
}

#[test]
fn every_key_is_read_from_the_file_and_overridden_by_its_variable() {
    let values = |name: &str| match name {
        "host" => ("\"1.2.3.4:5\"", "1.2.3.4:5", "localhost:6", "localhost:6"),
        "allowed_hosts" => ("[\"a\", \"b:1\"]", "a+b", "C, d", "c+d"),
        "allowed_origins" => ("[\"http://a/\"]", "http://a", "x://c, x://d", "x://c+x://d"),
        "execution_provider" => ("\"cpu\"", "cpu", "cuda", "cuda"),
        "memory" | "device_memory" => ("\"3KiB\"", "Some(3072)", "4", "Some(4)"),
        "threads" | "slots" | "context_length" | "max_models" => ("3", "Some(3)", "4", "Some(4)"),
        "max_queue" | "max_connections" => ("3", "3", "4", "4"),
        "keep_alive" => ("\"1m\"", "60", "-1", "-1"),
        "keep_alive_min" | "keep_alive_max" => ("60", "Some(60.0)", "2m", "Some(120.0)"),
        "keep_alive_client" => ("\"ignore\"", "true", "obey", "false"),
        "graph" => ("\"exact\"", "exact", "memory", "memory"),
        "cuda_graphs" => ("\"on\"", "true", "off", "false"),
        "hf_endpoint" => ("\"http://x\"", "http://x", "https://y", "https://y"),
        "api_key" | "hf_token" | "runtime_library" | "worker" | "log" => ("\"x\"", "x", "y", "y"),
        _ => ("\"1m\"", "60", "2m", "120"),
    };
    for key in KEYS {
        let (in_file, from_file, in_variable, from_variable) = values(key.name);
        let file = format!("{} = {in_file}", key.name);
        let config = load(&[], Some(&file)).unwrap();
        assert_eq!(observed(key.name, &config), from_file, "{} in the file", key.name);
        let variable = keys::variable(key.name);
        let config = load(&[(&variable, in_variable)], Some(&file)).unwrap();
        assert_eq!(observed(key.name, &config), from_variable, "{variable}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_key_and_variable() {
    assert_eq!(
        message(load(&[("HEARTH_THREADS", "many")], None)),
        "threads (or HEARTH_THREADS): `many` is no whole number"
    );
    assert_eq!(
        message(load(&[("HEARTH_GRACE_PERIOD", "soon")], None)),
        "grace_period (or HEARTH_GRACE_PERIOD): `soon` is no duration; write \"90s\", \"5m\" or seconds"
    );
    assert_eq!(
        message(load(&[], Some("keep_alve = \"5m\""))),
        "hearth.toml: there is no key `keep_alve`; do you mean `keep_alive`? `hearth serve --help` \
         lists them"
    );
    assert!(message(load(&[("HEARTH_API_KEY", "two words")], None)).starts_with("api_key"));
    assert!(
        message(load(&[("HEARTH_CONFIG", "/no/such.toml")], None))
            .starts_with("can't read /no/such.toml")
    );
}

#[test]
fn a_value_that_makes_no_sense_is_named_with_what_would() {
    for (variable, value, expected) in [
        ("SLOTS", "0", "must be a whole number from 1 to 256, not 0"),
        ("DEVICE_MEMORY", "50%", "`50%` is no size; write 8GiB or 500MB"),
        ("SLOTS", "257", "must be a whole number from 1 to 256, not 257"),
        ("MAX_QUEUE", "-1", "must be a whole number at least 1, not -1"),
        ("MAX_QUEUE", "0", "must be a whole number at least 1, not 0"),
        ("MAX_CONNECTIONS", "5000", "must be a whole number from 1 to 4096, not 5000"),
        ("EXECUTION_PROVIDER", "gpu", "must be auto, cpu, cuda or directml, not `gpu`"),
        (
            "DRAIN_TIMEOUT",
            "0",
            "`0` is no duration longer than nothing; write \"90s\", \"5m\" or seconds",
        ),
    ] {
        let name = format!("HEARTH_{variable}");
        let expected = format!("{} (or {name}): {expected}", variable.to_ascii_lowercase());
        assert_eq!(message(load(&[(&name, value)], None)), expected);
    }
    assert_eq!(
        message(load(&[], Some("api_key = 12345"))),
        "api_key (or HEARTH_API_KEY): must be a string, not of type integer"
    );
}

/// For each key of a model's table a value, and how it reads.
#[test]
fn every_key_of_a_models_table_holds_for_that_model_alone() {
    let observed = |name: &str, settings: &ModelSettings| match name {
        "context_length" => format!("{:?}", settings.context_length),
        "slots" => format!("{:?}", settings.slots),
        "threads" => format!("{:?}", settings.threads),
        "execution_provider" => settings.execution_provider.as_str().to_owned(),
        "graph" => settings.graph.as_str().to_owned(),
        "cuda_graphs" => settings.cuda_graphs.to_string(),
        "variant" => format!("{:?}", settings.variant),
        "keep_alive" => settings.keep_alive.default.as_seconds().to_string(),
        "keep_alive_min" => format!("{:?}", settings.keep_alive.min),
        "keep_alive_max" => format!("{:?}", settings.keep_alive.max),
        "keep_alive_client" => settings.keep_alive.ignores_clients.to_string(),
        "pinned" => settings.pinned.to_string(),
        "preload" => settings.preload.to_string(),
        other => panic!("no test observes {other}"),
    };
    for key in MODEL_KEYS {
        let (value, read) = match key.name {
            "context_length" | "slots" | "threads" => ("3", "Some(3)"),
            "execution_provider" => ("\"cpu\"", "cpu"),
            "graph" => ("\"memory\"", "memory"),
            "cuda_graphs" => ("\"on\"", "true"),
            "variant" => ("\"q4\"", "Some(\"q4\")"),
            "keep_alive" => ("\"1m\"", "60"),
            "keep_alive_min" | "keep_alive_max" => ("60", "Some(For(60s))"),
            "keep_alive_client" => ("\"ignore\"", "true"),
            _ => ("true", "true"),
        };
        let file = format!("[models.\"owner/m\"]\n{} = {value}", key.name);
        let models = load(&[], Some(&file)).unwrap().models;
        let of = |name: &str| observed(key.name, models.of(&name.parse().unwrap()));
        assert_eq!((of("owner/m"), of("owner/m:q4")), (read.to_owned(), read.to_owned()));
        assert_ne!(of("m"), read, "{}", key.name);
    }
}

#[test]
fn a_models_table_leaves_what_it_does_not_name_as_it_is_for_all() {
    let file = "slots = 2\nkeep_alive_max = \"1h\"\n[models.m]\nthreads = 1\nkeep_alive = -1";
    let models = load(&[("HEARTH_SLOTS", "3")], Some(file)).unwrap().models;
    let m = models.of(&"m".parse().unwrap());
    assert_eq!((m.slots.map(u32::from), m.threads.map(u32::from)), (Some(3), Some(1)));
    assert_eq!(m.keep_alive.settle(None), KeepAlive::For(Duration::from_secs(3600)));
}

#[test]
fn what_is_wrong_in_a_models_table_is_named_with_the_model() {
    for (file, expected) in [
        (
            "[models.m]\nslot = 3",
            "hearth.toml, [models.\"m\"]: there is no key `slot`; do you mean `slots`? \
             `hearth serve --help` lists them",
        ),
        (
            "[models.m]\nqqq = 3",
            "hearth.toml, [models.\"m\"]: there is no key `qqq`; `hearth serve --help` lists them",
        ),
        (
            "[models.m]\nslots = 0",
            "hearth.toml, [models.\"m\"]: slots: must be a whole number from 1 to 256, not 0",
        ),
        (
            "[models.m]\ngraph = \"big\"",
            "hearth.toml, [models.\"m\"]: graph: must be default, exact or memory, not `big`",
        ),
        (
            "[models.m]\npinned = 1",
            "hearth.toml, [models.\"m\"]: pinned: must be true or false, not of type integer",
        ),
        (
            "[models.m]\nkeep_alive_min = 9\nkeep_alive_max = 8",
            "hearth.toml, [models.\"m\"]: keep_alive_min: must not be longer than keep_alive_max",
        ),
        (
            "[models.\"../m\"]\n",
            "hearth.toml, [models.\"../m\"]: a model name's parts start with a letter or digit and \
             hold letters, digits, `.`, `_` and `-`",
        ),
        (
            "models = 3",
            "hearth.toml: `models` holds tables alone; begin each with a line [models.\"NAME\"]",
        ),
    ] {
        assert_eq!(message(load(&[], Some(file))), expected);
    }
}

#[test]
fn durations_in_the_file_may_be_plain_numbers() {
    let config = load(&[], Some("keep_alive = 300\nhang_timeout = 0.5")).unwrap();
    let keep_alive = config.models.defaults.keep_alive.default;
    assert_eq!(keep_alive, KeepAlive::For(Duration::from_secs(300)));
    assert_eq!(config.hang_timeout, Duration::from_millis(500));
}

#[test]
fn a_syntax_error_says_where_and_never_what_stands_there() {
    let error = message(load(&[], Some("log = \"info\"\napi_key = canary\n")));
    assert!(error.contains("hearth.toml, line 2, column 11: "), "{error}");
    assert!(!error.contains("canary") && !error.contains('\n'), "{error}");
}

#[test]
fn a_key_never_shows_itself() {
    let config = load(&[("HEARTH_API_KEY", "canary")], None).unwrap();
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn workers_see_only_the_variables_that_are_named() {
    let variables = [("LD_LIBRARY_PATH", "/x"), ("AWS_SECRET_ACCESS_KEY", "canary")];
    let config = load(&variables, None).unwrap();
    assert_eq!(config.worker_environment, [("LD_LIBRARY_PATH".into(), "/x".into())]);
}

#[test]
fn home_follows_the_platform_when_nothing_is_said() {
    let with = |pairs: &'static [(&str, &str)]| {
        home(&move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    };
    if cfg!(target_os = "linux") {
        assert_eq!(with(&[("HOME", "/h")]).unwrap(), Path::new("/h/.local/share/hearth"));
        let both = with(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]).unwrap();
        assert_eq!(both, Path::new("/d/hearth"));
    }
    assert!(matches!(with(&[]), Err(ConfigError::NoHome)));
}

#[test]
fn the_hubs_own_variables_hold_where_ours_are_not_set() {
    let config = load(&[("HF_ENDPOINT", "http://mirror"), ("HF_TOKEN", "hf_x")], None).unwrap();
    assert_eq!(config.hf_endpoint, "http://mirror");
    assert_eq!(config.hf_token.unwrap().expose(), "hf_x");
    let both = [("HF_ENDPOINT", "http://mirror"), ("HEARTH_HF_ENDPOINT", "http://ours")];
    assert_eq!(load(&both, None).unwrap().hf_endpoint, "http://ours");
    assert_eq!(load(&[], None).unwrap().hf_endpoint, "https://huggingface.co");
    let wrong = message(load(&[("HF_ENDPOINT", "mirror")], None));
    assert!(
        wrong.starts_with("hf_endpoint (or HEARTH_HF_ENDPOINT): must be an address"),
        "{wrong}"
    );
}
