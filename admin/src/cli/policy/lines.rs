//! Two texts line by line.

/// Equal lines that are shown around a difference.
const AROUND: usize = 3;
/// Beyond this product of lengths the middle is shown as taken away and put in.
const PRODUCT_MAX: usize = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Same,
    Gone,
    New,
}

/// What to take away (`-`) and put in (`+`) to get from one text to the other, with some lines around; empty for equal
/// texts.
pub fn differences(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let steps = steps(&old, &new);
    let near = |index: usize| {
        let from = index.saturating_sub(AROUND);
        steps[from..(index + AROUND + 1).min(steps.len())].iter().any(|step| *step != Step::Same)
    };
    let (mut text, mut left, mut right, mut shown) = (String::new(), 0, 0, false);
    for (index, step) in steps.iter().enumerate() {
        let show = near(index);
        if show && !shown {
            text += &format!("@@ line {} → line {} @@\n", left + 1, right + 1);
        }
        shown = show;
        let (mark, line) = match step {
            Step::Same => (' ', new[right]),
            Step::Gone => ('-', old[left]),
            Step::New => ('+', new[right]),
        };
        if show {
            text += &format!("{mark}{line}\n");
        }
        left += usize::from(*step != Step::New);
        right += usize::from(*step != Step::Gone);
    }
    text
}

/// The longest common subsequence, between what the texts share at both ends.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut steps = vec![Step::Same; head];
    if old.len().saturating_mul(new.len()) > PRODUCT_MAX {
        steps.extend(vec![Step::Gone; old.len()]);
        steps.extend(vec![Step::New; new.len()]);
    } else {
        // common[i][j]: how much old[i..] and new[j..] have in common.
        let mut common = vec![vec![0u32; new.len() + 1]; old.len() + 1];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                common[i][j] = match old[i] == new[j] {
                    true => common[i + 1][j + 1] + 1,
                    false => common[i + 1][j].max(common[i][j + 1]),
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < old.len() || j < new.len() {
            let step = match (old.get(i), new.get(j)) {
                (Some(a), Some(b)) if a == b => Step::Same,
                (Some(_), Some(_)) if common[i + 1][j] >= common[i][j + 1] => Step::Gone,
                (Some(_), None) => Step::Gone,
                _ => Step::New,
            };
            i += usize::from(step != Step::New);
            j += usize::from(step != Step::Gone);
            steps.push(step);
        }
    }
    steps.extend(vec![Step::Same; tail]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_shown() {
        assert_eq!(differences("a\nb\n", "a\nb\n"), "");
        assert_eq!(differences("", "a\n"), "@@ line 1 → line 1 @@\n+a\n");
        let old: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let new = old.replace("10\n", "ten\n10\n").replace("20\n", "");
        assert_eq!(
            differences(&old, &new),
            "@@ line 7 → line 7 @@\n 7\n 8\n 9\n+ten\n 10\n 11\n 12\n@@ line 17 → line 18 @@\n 17\n 18\n 19\n-20\n"
        );
        let long: String = (0..3_000).map(|n| format!("x{n}\n")).collect();
        let other: String = (0..3_000).map(|n| format!("y{n}\n")).collect();
        assert_eq!(differences(&long, &other).lines().count(), 6_001);
    }
}
