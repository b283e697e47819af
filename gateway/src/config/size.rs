//! Sizes of memory as people write them → bytes. Pure.

const UNITS: [(&str, u64); 11] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("B", 1),
];

/// `8GiB`, `1.5 GB`, `4096`, or `75%` of `whole`; `None` for anything else, and for nothing.
pub(super) fn parse(text: &str, whole: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let unit = match unit.trim() {
        "" => 1.0,
        "%" if number <= 100.0 => to_f64(whole?) / 100.0,
        unit => to_f64(UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1),
    };
    let bytes = number * unit;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it was just seen to be in range, and a part of a byte is none"
    )]
    (1.0..=1e18).contains(&bytes).then_some(bytes as u64)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to nine petabytes")]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("8GiB", Some(8 << 30)),
            ("1.5 gb", Some(1_500_000_000)),
            ("512M", Some(512 << 20)),
            ("4096", Some(4096)),
            ("75%", Some(750)),
            ("101%", None),
            ("0", None),
            ("", None),
            ("GiB", None),
            ("1.2.3G", None),
            ("-1", None),
            ("8 parsecs", None),
        ] {
            assert_eq!(parse(text, Some(1000)), bytes, "{text}");
        }
        assert_eq!(parse("75%", None), None);
    }
}
