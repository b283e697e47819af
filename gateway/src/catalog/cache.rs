//! The shape of a language model's cache of keys and values, as its files tell it.
//!
//! The fleet promises a first load's memory by it. What a file does not say is taken for what models
//! without it have; one that says nothing is taken to have no cache.

use serde_json::Value;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CacheShape {
    pub(super) layers: u64,
    pub(super) heads: u64,
    /// Where it is absent, each head has its own.
    pub(super) kv_heads: Option<u64>,
    pub(super) hidden: u64,
    /// Numbers in one head's key. Where it is absent, the heads share the hidden ones.
    pub(super) key: Option<u64>,
    /// The same of a value; mostly as many.
    pub(super) value: Option<u64>,
}

impl CacheShape {
    /// By the names that configurations of folders have for them. What is no number is as good as
    /// absent: some families write lists.
    pub(super) fn of(configuration: &Value) -> Self {
        let size = |name: &str| configuration.get(name).and_then(Value::as_u64);
        Self {
            layers: size("num_hidden_layers").unwrap_or(0),
            heads: size("num_attention_heads").unwrap_or(0),
            kv_heads: size("num_key_value_heads"),
            hidden: size("hidden_size").unwrap_or(0),
            key: size("head_dim").or(size("head_size")),
            value: None,
        }
    }

    /// How many numbers one token takes, in all layers.
    pub(super) fn numbers_per_token(self) -> u64 {
        let shared = self.hidden.checked_div(self.heads).unwrap_or(0);
        let key = self.key.unwrap_or(shared);
        let value = self.value.unwrap_or(key);
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        // A file that lies must not wrap around to little.
        self.layers.saturating_mul(kv_heads).saturating_mul(key.saturating_add(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(config: &str) -> u64 {
        CacheShape::of(&serde_json::from_str(config).unwrap()).numbers_per_token()
    }

    #[test]
    fn what_a_configuration_leaves_out_is_what_models_without_it_have() {
        let smollm2 = r#""num_hidden_layers": 30, "num_attention_heads": 9, "hidden_size": 576"#;
        assert_eq!(numbers(&format!("{{{smollm2}, \"num_key_value_heads\": 3}}")), 30 * 3 * 128);
        assert_eq!(numbers(&format!("{{{smollm2}}}")), 30 * 9 * 128);
        assert_eq!(numbers(&format!("{{{smollm2}, \"head_dim\": 32}}")), 30 * 9 * 64);
        assert_eq!(numbers(&format!("{{{smollm2}, \"head_size\": 32}}")), 30 * 9 * 64);
        assert_eq!(numbers(&format!("{{{smollm2}, \"head_dim\": null}}")), 30 * 9 * 128);
        for says_nothing in ["{}", "null", r#"{"num_hidden_layers": [1, 2], "hidden_size": 9}"#] {
            assert_eq!(numbers(says_nothing), 0, "{says_nothing}");
        }
    }
}
