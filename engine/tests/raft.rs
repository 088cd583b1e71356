//! The rules of the Raft paper and thesis as stories, told to the core: `raft/*.txt`.
//!
//! A story is paragraphs: comments, a command, `----`, and what the command changed. The commands
//! stand in `raft/cluster.rs`. After an intended change: `UPDATE_EXPECT=1 cargo test -p engine --test
//! raft`, then read the difference.

#[path = "raft/amnesia.rs"]
mod amnesia;
#[path = "raft/cluster.rs"]
mod cluster;
#[path = "raft/cut.rs"]
mod cut;
#[path = "raft/forgetful.rs"]
mod forgetful;
#[path = "raft/group.rs"]
mod group;
#[path = "raft/matrix.rs"]
mod matrix;
#[path = "raft/promises.rs"]
mod promises;
#[path = "raft/random.rs"]
mod random;
#[path = "raft/replica.rs"]
mod replica;

use std::fs;
use std::path::{Path, PathBuf};

use cluster::Cluster;

#[test]
fn the_stories_go_as_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft");
    let files = fs::read_dir(&folder).expect("the folder of the stories");
    let mut stories: Vec<PathBuf> = files
        .map(|file| file.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    stories.sort();
    assert!(!stories.is_empty(), "no stories in {}", folder.display());
    for path in stories {
        println!("{}", path.display());
        let story = fs::read_to_string(&path).expect("a readable story");
        expect_test::expect_file![&path].assert_eq(&retell(&story));
    }
}

/// The story with the answers it gets now.
fn retell(story: &str) -> String {
    let mut cluster = Cluster::default();
    let mut told = Vec::new();
    for paragraph in story.trim_end().split("\n\n") {
        let (input, _) = paragraph.split_once("\n----").unwrap_or((paragraph, ""));
        let input = input.trim_end();
        let mut lines = input.lines();
        let Some(line) = lines.find(|line| !line.is_empty() && !line.starts_with('#')) else {
            told.push(input.to_owned());
            continue;
        };
        let mut words = line.split_whitespace();
        let command = words.next().expect("a line that is not empty");
        let answer = cluster.run(command, &words.collect::<Vec<_>>());
        told.push(format!("{input}\n----\n{}", answer.trim_end()));
    }
    told.join("\n\n") + "\n"
}
