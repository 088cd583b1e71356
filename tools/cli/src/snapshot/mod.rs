//! `drakkar snapshot`: the snapshots of running nodes; taken out of a cluster, and into the stopped
//! nodes of one that has lost its majority.

pub(crate) mod create;
mod export;
pub(crate) mod import;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::endpoints::Endpoints;
use crate::status::{columns, size};
use crate::{exit, http};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Has the nodes take snapshots now, one node after the other, and prints the last entry of each. Waits for
    /// them, and ends with 5 if that takes too long.
    Create(create::Order),
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
    let list = |endpoint: &String| {
        let body = http::get(endpoint, "/v1/snapshots")?;
        serde_json::from_str(&body).map_err(|error| format!("it answered no JSON: {error}"))
    };
    let create = |options: &create::Order, endpoint: &String| {
        let patience = Duration::from_secs(options.timeout);
        let rows = create::take(endpoint, options.group, patience)?;
        Ok(json!({ "snapshots": rows }))
    };
    let (options, ask): (_, &dyn Fn(&String) -> _) = match verb {
        Verb::Create(options) => (&options.asked, &|endpoint| create(options, endpoint)),
        Verb::List { options } => (options, &list),
        Verb::Export(options) => return export::run(options),
        Verb::Import(options) => return import::run(options),
    };
    let answers: Answers<'_> = options
        .endpoints
        .endpoint
        .iter()
        .map(|it| (it, ask(it)))
        .collect();
    if options.json {
        let list = answers.iter().map(|(endpoint, answer)| match answer {
            Ok(answer) => json!({ "endpoint": endpoint, "answer": answer }),
            Err(error) => json!({ "endpoint": endpoint, "error": error }),
        });
        println!("{}", Value::from(list.collect::<Vec<_>>()));
    } else {
        let taken = matches!(verb, Verb::Create(_));
        print!("{}", table(taken, &answers));
    }
    let rows = || {
        answers
            .iter()
            .filter_map(|(_, it)| it.as_ref().ok())
            .flat_map(rows)
    };
    let failed = |row: &Value| row["error"].is_string();
    if answers.iter().all(|(_, answer)| answer.is_err()) {
        exit::complain(
            exit::NOT_FOUND,
            &"no node did as asked: name their admin ports with --endpoint",
        )
    } else if rows().any(|row| failed(row) && !create::is_pending(row)) {
        ExitCode::from(exit::ERROR)
    } else if rows().any(create::is_pending) {
        ExitCode::from(exit::TIMEOUT)
    } else {
        ExitCode::SUCCESS
    }
}

fn rows(answer: &Value) -> &[Value] {
    answer["snapshots"].as_array().map_or(&[], Vec::as_slice)
}

fn table(taken: bool, answers: &Answers<'_>) -> String {
    let mut lines = vec![match taken {
        true => ["ENDPOINT", "GROUP", "SNAPSHOT"]
            .map(str::to_owned)
            .to_vec(),
        false => ["ENDPOINT", "GROUP", "INDEX", "TERM", "SIZE", "CONDITION"]
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
                    line.extend(cells(taken, row));
                    line
                };
                lines.extend(rows(answer).iter().map(row));
            }
        }
    }
    columns(&lines)
}

fn cells(taken: bool, row: &Value) -> Vec<String> {
    let number = |name: &str| row[name].to_string();
    match taken {
        true => {
            let failed = row["error"]
                .as_str()
                .map(|error| format!("failed: {error}"));
            vec![number("group"), failed.unwrap_or_else(|| number("index"))]
        }
        false => {
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

    #[test]
    fn the_table_says_what_was_taken_and_what_was_not() {
        let answer = json!({ "snapshots": [
            { "group": 0, "index": 12 }, { "group": 1, "error": "no space" },
        ] });
        let endpoint = "127.0.0.1:9001".to_owned();
        let text = table(true, &vec![(&endpoint, Ok(answer))]);
        let expected = "\
ENDPOINT        GROUP  SNAPSHOT
127.0.0.1:9001  0      12
127.0.0.1:9001  1      failed: no space
";
        assert_eq!(text, expected);
    }
}
