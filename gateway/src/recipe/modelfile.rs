//! A model in the words of Ollama's Modelfile, for `/api/show`. Pure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Recipe;

/// What Ollama would make the same model from. `template` is the one in use.
#[must_use]
pub fn modelfile(from: &str, template: Option<&str>, recipe: Option<&Recipe>) -> String {
    let mut file = format!("FROM {from}\n");
    let mut texts = |word: &str, text: &str| {
        writeln!(file, "{word} \"\"\"{text}\"\"\"").expect("a string takes everything");
    };
    if let Some(template) = template {
        texts("TEMPLATE", template);
    }
    let Some(recipe) = recipe else { return file };
    if let Some(system) = &recipe.system {
        texts("SYSTEM", system);
    }
    recipe.license.iter().for_each(|license| texts("LICENSE", license));
    for (name, value) in each(&recipe.parameters) {
        file.push_str(&format!("PARAMETER {name} {value}\n"));
    }
    for message in &recipe.messages {
        let text = |name: &str| message[name].as_str().unwrap_or_default();
        file.push_str(&format!("MESSAGE {} \"\"\"{}\"\"\"\n", text("role"), text("content")));
    }
    file
}

/// Parameters as Ollama lists them: one in each line, the values in a column of their own.
#[must_use]
pub fn parameters_text(parameters: &Map<String, Value>) -> String {
    let lines: Vec<String> =
        each(parameters).map(|(name, value)| format!("{name:<30} {value}")).collect();
    lines.join("\n")
}

/// Each value of each parameter; several are listed one by one.
fn each(parameters: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    parameters.iter().flat_map(|(name, value)| {
        let values = match value {
            Value::Array(values) => &values[..],
            one => std::slice::from_ref(one),
        };
        values.iter().map(move |value| (name.as_str(), value))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_modelfile_says_what_the_recipe_does() {
        let recipe: Recipe = serde_json::from_value(json!({
            "from": "base", "system": "Be brief.", "license": ["MIT"],
            "parameters": {"temperature": 0.5, "stop": ["<a>", "b"]},
            "messages": [{"role": "user", "content": "hi"}],
        }))
        .unwrap();
        assert_eq!(
            modelfile("base:latest", Some("T"), Some(&recipe)),
            "FROM base:latest\nTEMPLATE \"\"\"T\"\"\"\nSYSTEM \"\"\"Be brief.\"\"\"\n\
             LICENSE \"\"\"MIT\"\"\"\nPARAMETER temperature 0.5\nPARAMETER stop \"<a>\"\n\
             PARAMETER stop \"b\"\nMESSAGE user \"\"\"hi\"\"\"\n"
        );
        assert_eq!(
            parameters_text(&recipe.parameters),
            "temperature                    0.5\nstop                           \"<a>\"\n\
             stop                           \"b\""
        );
        assert_eq!(modelfile("m:latest", None, None), "FROM m:latest\n");
    }
}
