//! Schemas for the test of schemas: as many as wanted, always the same, each with an end.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Map, Value, json};

const DEPTH_MAX: u32 = 2;

/// Schema number `number`.
pub(crate) fn schema(number: u64) -> Value {
    let mut maker = Maker { random: ChaCha8Rng::seed_from_u64(number), definitions: Map::new() };
    let mut schema = match number % 4 {
        0 | 1 => maker.object(0),
        2 => maker.array(0),
        _ => maker.any(0),
    };
    if !maker.definitions.is_empty() {
        schema["$defs"] = Value::Object(maker.definitions);
    }
    schema
}

struct Maker {
    random: ChaCha8Rng,
    definitions: Map<String, Value>,
}

impl Maker {
    fn below(&mut self, count: u32) -> u32 {
        self.random.next_u32() % count
    }

    fn any(&mut self, depth: u32) -> Value {
        match self.below(if depth < DEPTH_MAX { 12 } else { 8 }) {
            0 => json!({"type": "boolean"}),
            1 => self.number(),
            2 | 3 => self.string(),
            4 => json!({"enum": ["red", "grün", 3, true, null, {"a": [1]}]}),
            5 => json!({"const": ["fixed", {"value": 1.5}]}),
            6 => json!({"type": ["null", "boolean", "integer"], "minimum": 0, "maximum": 9}),
            7 => self.format(),
            8 => self.object(depth + 1),
            9 => self.array(depth + 1),
            10 => self.choice(depth + 1),
            _ => self.reference(depth + 1),
        }
    }

    fn number(&mut self) -> Value {
        let least = i64::from(self.below(2000)) - 1000;
        let most = least + i64::from(self.below(5000));
        match self.below(4) {
            0 => json!({"type": "integer", "minimum": least, "maximum": most}),
            1 => {
                json!({"type": "integer", "exclusiveMinimum": least, "exclusiveMaximum": most + 3})
            }
            2 => json!({"type": "integer", "minimum": 0, "maximum": 900, "multipleOf": 3}),
            _ => json!({"type": "number", "minimum": least, "maximum": most}),
        }
    }

    fn string(&mut self) -> Value {
        let least = self.below(4);
        let most = least + self.below(12);
        match self.below(5) {
            0 => json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,4}$"}),
            1 => json!({"type": "string", "pattern": "^(north|south)(east|west)?$"}),
            2 => json!({"type": "string", "enum": ["a \"quoted\" word", "back\\slash", "tab\t"]}),
            _ => json!({"type": "string", "minLength": least, "maxLength": most}),
        }
    }

    fn format(&mut self) -> Value {
        let formats = ["date", "time", "ipv4", "uuid"];
        let format = formats[self.below(4).try_into().unwrap_or(0)];
        let most = if format == "time" { json!(20) } else { Value::Null };
        let mut schema = json!({"type": "string", "format": format});
        if !most.is_null() {
            schema["maxLength"] = most;
        }
        schema
    }

    fn object(&mut self, depth: u32) -> Value {
        let names = ["name", "größe", "a b", "id", "x-y", "items", "not"];
        let mut properties = Map::new();
        let mut required = Vec::new();
        for name in names.iter().take(usize::try_from(1 + self.below(4)).unwrap_or(1)) {
            properties.insert((*name).to_owned(), self.any(depth + 1));
            if self.below(3) > 0 {
                required.push(*name);
            }
        }
        let mut schema = json!({"type": "object", "properties": properties, "required": required});
        if self.below(2) == 0 {
            schema["additionalProperties"] = json!(false);
        }
        schema
    }

    fn array(&mut self, depth: u32) -> Value {
        let least = self.below(3);
        let most = least + self.below(3);
        if self.below(4) == 0 {
            let items = [self.any(depth + 1), self.any(depth + 1)];
            return json!({"type": "array", "prefixItems": items, "items": false, "minItems": least.min(2)});
        }
        json!({"type": "array", "items": self.any(depth + 1), "minItems": least, "maxItems": most})
    }

    fn choice(&mut self, depth: u32) -> Value {
        if self.below(2) == 0 {
            return json!({"anyOf": [self.any(depth + 1), self.number(), {"type": "null"}]});
        }
        let kind = |name: &str, rest: Value| {
            json!({"type": "object", "properties": {"kind": {"const": name}, "value": rest},
                "required": ["kind", "value"], "additionalProperties": false})
        };
        json!({"oneOf": [kind("one", self.any(depth + 1)), kind("other", self.string())]})
    }

    fn reference(&mut self, depth: u32) -> Value {
        let name = format!("part{}", self.definitions.len());
        // Held first, so that one within it gets another name.
        self.definitions.insert(name.clone(), Value::Null);
        let part = self.any(depth + 1);
        self.definitions.insert(name.clone(), part);
        json!({"$ref": format!("#/$defs/{name}")})
    }
}
