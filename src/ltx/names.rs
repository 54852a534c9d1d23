//! File names: `<min>-<max>.ltx`, both 16 lower-case hexadecimal digits.

use super::Txid;
use super::pos::parse_hex16;

const NAME_LEN: usize = 16 + 1 + 16 + 4;

/// The name of the file that holds transactions `min..=max`.
pub fn file_name(min: Txid, max: Txid) -> String {
    format!("{min}-{max}.ltx")
}

/// The transactions a file name states; `None` for any other name, upper-case
/// digits included.
pub fn parse_file_name(name: &str) -> Option<(Txid, Txid)> {
    if name.len() != NAME_LEN || name.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
    Some((Txid(parse_hex16(min)?), Txid(parse_hex16(max)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundtrip_and_refusals() {
        let name = file_name(Txid(1), Txid(0xabcdef));
        assert_eq!(name, "0000000000000001-0000000000abcdef.ltx");
        assert_eq!(parse_file_name(&name), Some((Txid(1), Txid(0xabcdef))));
        for bad in [
            "",
            "0000000000000001-0000000000ABCDEF.ltx",
            "0000000000000001-0000000000abcdef.LTX",
            "0000000000000001-0000000000abcdef.ltx.tmp",
            "000000000000000100-00000000abcdef.ltx",
            "0000000000000001_0000000000abcdef.ltx",
            "+000000000000001-0000000000abcdef.ltx",
        ] {
            assert_eq!(parse_file_name(bad), None, "{bad}");
        }
    }
}
