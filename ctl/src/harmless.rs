//! Output of tasks made harmless for a terminal.

use crate::text::caret;

/// Makes a stream of bytes harmless, piece by piece: control characters but line ends and tabs are shown as `^[` or
/// `\x9b`, bytes that are no UTF-8 as `\xff`. A character that is cut by the end of a piece is kept for the next one.
#[derive(Debug, Default)]
pub struct Harmless {
    begun: Vec<u8>,
}

impl Harmless {
    /// The harmless form of a piece, without a character that its end cuts.
    pub fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = std::mem::take(&mut self.begun);
        whole.extend_from_slice(bytes);
        let mut shown = Vec::with_capacity(whole.len());
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            let (valid, broken, after) = match std::str::from_utf8(rest) {
                Ok(text) => (text, &rest[..0], &rest[rest.len()..]),
                Err(error) => {
                    let valid = error.valid_up_to();
                    let text = std::str::from_utf8(&rest[..valid]).unwrap_or_default();
                    // no length: the end of the piece cuts a character, which the next piece may complete
                    let Some(length) = error.error_len() else {
                        show(text, &mut shown);
                        self.begun = rest[valid..].to_vec();
                        break;
                    };
                    let broken = &rest[valid..valid + length];
                    (text, broken, &rest[valid + length..])
                }
            };
            show(valid, &mut shown);
            show_bytes(broken, &mut shown);
            rest = after;
        }
        shown
    }

    /// What is left at the end: the bytes of a character that never became whole.
    pub fn end(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        show_bytes(&std::mem::take(&mut self.begun), &mut shown);
        shown
    }
}

fn show(text: &str, shown: &mut Vec<u8>) {
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend_from_slice(caret(c).as_bytes());
        } else {
            shown.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

fn show_bytes(bytes: &[u8], shown: &mut Vec<u8>) {
    for byte in bytes {
        shown.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(bytes: &[u8], length: usize) -> String {
        let mut harmless = Harmless::default();
        let mut shown: Vec<u8> = bytes
            .chunks(length)
            .flat_map(|piece| harmless.piece(piece))
            .collect();
        shown.extend(harmless.end());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn the_form_does_not_depend_on_the_pieces() {
        let bytes =
            b"a\x1b]0;title\x07 \r\n\t\0 \xff\xc3\xa9 \xc2\x9b \xe2\x82 \xf0\x9f\x98\x80 \xe2\x82";
        let expected = "a^[]0;title^G ^M\n\t^@ \\xffé \\x9b \\xe2\\x82 😀 \\xe2\\x82";
        for length in 1..=bytes.len() {
            assert_eq!(in_pieces(bytes, length), expected, "pieces of {length}");
        }
    }
}
