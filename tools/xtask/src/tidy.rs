//! What neither compiler nor clippy know of.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A file of more lines hides a noun that wants to move out.
const LINES_MAX: usize = 1000;

/// Words that should not stand in a tracked text. Cut in two, so that this list passes itself.
const FORBIDDEN: &[(&str, &str)] = &[
    ("TO", "DO"),
    ("FIX", "ME"),
    ("unimplemented", "!("),
    ("/ro", "ot/"),
    ("/ho", "me/"),
];

/// What only folders named `io` may name, in the crates whose core is arithmetic.
const KERNEL: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "SystemTime",
];

/// Prints every finding; an error if there is any.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let mut findings = 0;
    for path in tracked(root)? {
        let Ok(text) = fs::read_to_string(root.join(&path)) else {
            continue;
        };
        for finding in check_file(&path, &text) {
            println!("{path}: {finding}");
            findings += 1;
        }
    }
    if findings == 0 {
        Ok(())
    } else {
        Err(format!("{findings} findings"))
    }
}

/// The files that git tracks.
pub(crate) fn tracked(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git")
        .args(["ls-files"])
        .current_dir(root)
        .output();
    let output = output.map_err(|error| format!("cannot run git: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if path.ends_with(".lock") {
        return findings;
    }
    let lines = text.lines().count();
    if path.ends_with(".rs") && lines > LINES_MAX {
        findings.push(format!(
            "{lines} lines, more than {LINES_MAX}: which noun wants to move out?"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        for (start, end) in FORBIDDEN {
            let word = format!("{start}{end}");
            if line.contains(&word) {
                findings.push(format!("line {number} says {word}"));
            }
        }
        let core = ["wal/src/", "net/src/", "engine/src/"];
        let in_core = core.iter().any(|start| path.starts_with(start)) && !path.contains("/io/");
        if in_core && path.ends_with(".rs") {
            let named = KERNEL.iter().filter(|name| line.contains(**name));
            findings.extend(named.map(|name| format!("line {number} names {name} outside of io/")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let long = "x\n".repeat(LINES_MAX + 1);
        let word = format!("// {}{} later", FORBIDDEN[0].0, FORBIDDEN[0].1);
        let table: &[(&str, &str, usize)] = &[
            ("wal/src/lib.rs", &long, 1),
            ("README.md", &long, 0),
            ("README.md", &word, 1),
            ("wal/src/lib.rs", "use std::fs;", 1),
            ("wal/src/io/log.rs", "use std::fs;", 0),
            ("tools/cli/src/main.rs", "use std::fs;", 0),
        ];
        for (path, text, findings) in table {
            assert_eq!(check_file(path, text).len(), *findings, "{path}");
        }
    }

    /// The map in the root README names every folder that holds sources, and no other.
    #[test]
    fn the_map_in_the_readme_is_the_tree() {
        let root = crate::root();
        let readme = fs::read_to_string(root.join("README.md")).unwrap();
        let map = readme
            .split("```text map\n")
            .nth(1)
            .expect("the README has a map");
        let map = map.split("```").next().unwrap();
        let first_words = map
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let drawn: BTreeSet<String> = first_words
            .filter(|word| word.ends_with('/'))
            .map(str::to_owned)
            .collect();
        let mut present = BTreeSet::new();
        for path in tracked(&root).unwrap() {
            if path.ends_with(".rs")
                && let Some((folder, _)) = path.rsplit_once('/')
            {
                let folder = folder.strip_suffix("/src").unwrap_or(folder);
                present.insert(format!("{folder}/"));
            }
        }
        assert_eq!(drawn, present);
    }
}
