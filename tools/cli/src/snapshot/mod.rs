//! `drakkar snapshot`: the snapshots of running nodes; taken out of a cluster, and into the stopped
//! nodes of one that has lost its majority.

mod export;
pub(crate) mod import;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::endpoints::Endpoints;
use crate::status::{columns, size};
use crate::{exit, http};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Has the nodes take snapshots now, and prints the last entry of each.
    Create {
        #[command(flatten)]
        options: Options,
        /// Of this group alone.
        #[arg(long)]
        group: Option<u32>,
    },
    /// Shows the snapshots that the nodes keep.
    List {
        #[command(flatten)]
        options: Options,
    },
    /// Has the leaders take snapshots and copies them to a directory, while the cluster serves.
    Export(export::Options),
    /// Makes exported snapshots the whole history of a stopped node, and a list of nodes its membership.
    /// For a cluster that has lost its majority for good: run it on every node of the list, with the
    /// same snapshots and the same list. What is newer than the snapshots is lost.
    Import(import::Options),
}

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    endpoints: Endpoints,
    /// Prints JSON: a list of endpoints with the answer or the error of each.
    #[arg(long)]
    json: bool,
}

type Answers<'a> = Vec<(&'a String, Result<Value, String>)>;

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let (method, path, options) = match verb {
        Verb::Create { options, group } => {
            let path = group.map_or_else(
                || "/v1/snapshots".to_owned(),
                |group| format!("/v1/snapshots?group={group}"),
            );
            ("POST", path, options)
        }
        Verb::List { options } => ("GET", "/v1/snapshots".to_owned(), options),
        Verb::Export(options) => return export::run(options),
        Verb::Import(options) => return import::run(options),
    };
    let ask = |endpoint: &String| {
        let body = http::ask(method, endpoint, &path)?;
        serde_json::from_str(&body).map_err(|error| format!("it answered no JSON: {error}"))
    };
    let answers: Answers<'_> = options
        .endpoints
        .endpoint
        .iter()
        .map(|it| (it, ask(it)))
        .collect();
    if options.json {
        let list = answers.iter().map(|(endpoint, answer)| match answer {
            Ok(answer) => serde_json::json!({ "endpoint": endpoint, "answer": answer }),
            Err(error) => serde_json::json!({ "endpoint": endpoint, "error": error }),
        });
        println!("{}", Value::from(list.collect::<Vec<_>>()));
    } else {
        print!("{}", table(verb, &answers));
    }
    let failed = |answer: &Value| rows(answer).iter().any(|row| row["error"].is_string());
    if answers.iter().all(|(_, answer)| answer.is_err()) {
        exit::complain(
            exit::NOT_FOUND,
            &"no node did as asked: name their admin ports with --endpoint",
        )
    } else if answers.iter().any(|(_, it)| it.as_ref().is_ok_and(failed)) {
        ExitCode::from(exit::ERROR)
    } else {
        ExitCode::SUCCESS
    }
}

fn rows(answer: &Value) -> &[Value] {
    answer["snapshots"].as_array().map_or(&[], Vec::as_slice)
}

fn table(verb: &Verb, answers: &Answers<'_>) -> String {
    let mut lines = vec![match verb {
        Verb::Create { .. } => ["ENDPOINT", "GROUP", "SNAPSHOT"]
            .map(str::to_owned)
            .to_vec(),
        _ => ["ENDPOINT", "GROUP", "INDEX", "TERM", "SIZE", "CONDITION"]
            .map(str::to_owned)
            .to_vec(),
    }];
    for (endpoint, answer) in answers {
        let endpoint = (*endpoint).clone();
        match answer {
            Err(error) => lines.push(vec![endpoint, format!("down: {error}")]),
            Ok(answer) => {
                let row = |row: &Value| {
                    let mut line = vec![endpoint.clone()];
                    line.extend(cells(verb, row));
                    line
                };
                lines.extend(rows(answer).iter().map(row));
            }
        }
    }
    columns(&lines)
}

fn cells(verb: &Verb, row: &Value) -> Vec<String> {
    let number = |name: &str| row[name].to_string();
    match verb {
        Verb::Create { .. } => {
            let failed = row["error"]
                .as_str()
                .map(|error| format!("failed: {error}"));
            vec![number("group"), failed.unwrap_or_else(|| number("index"))]
        }
        _ => {
            let refused = row["refused"] == true;
            vec![
                number("group"),
                number("index"),
                number("term"),
                size(row["bytes"].as_u64().unwrap_or_default()),
                if refused { "damaged" } else { "usable" }.to_owned(),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_says_what_was_taken_and_what_was_not() {
        let options = Options {
            endpoints: Endpoints {
                endpoint: Vec::new(),
            },
            json: false,
        };
        let verb = Verb::Create {
            options,
            group: None,
        };
        let answer = json!({ "snapshots": [
            { "group": 0, "index": 12 }, { "group": 1, "error": "no space" },
        ] });
        let endpoint = "127.0.0.1:9001".to_owned();
        let text = table(&verb, &vec![(&endpoint, Ok(answer))]);
        let expected = "\
ENDPOINT        GROUP  SNAPSHOT
127.0.0.1:9001  0      12
127.0.0.1:9001  1      failed: no space
";
        assert_eq!(text, expected);
    }
}
