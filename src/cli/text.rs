//! Text of strangers, as it may be shown to a person. Leaf of its folder.

/// A stranger's name must not move the cursor.
pub fn visible(text: &str) -> String {
    // Neither may a direction mark make `exe.png` of `gnp.exe`.
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if hidden(c) { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_or_turns_the_line_is_shown_as_a_blank() {
        assert_eq!(visible("a\x1b[31mb\nc"), "a_[31mb_c");
        assert_eq!(visible("a\u{202e}gnp.exe"), "a_gnp.exe");
        assert_eq!(visible("Albüm 音"), "Albüm 音");
    }
}
