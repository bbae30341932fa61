//! JSON as TOML writes it.

use serde_json::Value;
use toml_edit::InlineTable;

/// None: it holds a null where TOML has none. What clients sent is then written
/// as `json` in place of `data`.
pub(super) fn to_toml(json: &Value) -> Option<toml_edit::Value> {
    Some(match json {
        Value::Null => return None,
        Value::Bool(bool) => (*bool).into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            // Larger than TOML's own.
            None if number.is_u64() => return None,
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_toml).collect::<Option<toml_edit::Array>>()?.into(),
        Value::Object(fields) => {
            let mut table = InlineTable::new();
            for (key, value) in fields {
                match to_toml(value) {
                    Some(value) => drop(table.insert(key, value)),
                    None if key == "data" => drop(table.insert("json", value.to_string().into())),
                    None => return None,
                }
            }
            table.into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_toml_cannot_hold_becomes_json() {
        let text = |json: Value| to_toml(&json).map(|value| value.to_string());
        assert_eq!(
            text(json!({ "replace": { "data": [1, "a", 1.5] } })).unwrap(),
            r#"{ replace = { data = [1, "a", 1.5] } }"#
        );
        assert_eq!(text(json!({ "data": { "a": null } })).unwrap(), r#"{ json = '{"a":null}' }"#);
        assert_eq!(text(json!({ "info": null })), None);
    }
}
