//! Old ways of saying things, brought into today's order before the grammar sees them.

use std::ffi::OsString;

/// The words as the grammar wants them, and hints for whoever wrote the old form.
///
/// Headscale before 0.23 took `-u USER` (and `-n NAMESPACE`) before the verb.
pub fn modern(words: Vec<OsString>) -> (Vec<OsString>, Vec<String>) {
    let is = |word: &OsString, forms: &[&str]| word.to_str().is_some_and(|word| forms.contains(&word));
    let owner = ["-u", "--user", "-n", "--namespace"];
    if words.len() < 4 || !is(&words[1], &owner) {
        return (words, Vec::new());
    }
    let mut modern: Vec<OsString> = vec![words[0].clone()];
    modern.extend(words[3..].iter().cloned());
    modern.extend(["--user".into(), words[2].clone()]);
    let hint = "hint: --user belongs behind the verb now, as in: hsraft nodes list --user NAME";
    (modern, vec![hint.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_moves_behind_the_verb() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let (new, hints) = modern(words("hsraft -n alice nodes register --key k"));
        assert_eq!(new, words("hsraft nodes register --key k --user alice"));
        assert_eq!(hints.len(), 1);
        assert_eq!(modern(words("hsraft nodes list")).0, words("hsraft nodes list"));
    }
}
