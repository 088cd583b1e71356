//! A majority is lost, and the survivors go on with what they hold.

use crate::cluster::{Cluster, ELECTION_TIMEOUT, until};

fn shrink<'a>(config: &'a str, survivors: &'a str) -> Vec<&'a str> {
    vec![
        "repair",
        "shrink",
        "--config",
        config,
        "--survivors",
        survivors,
    ]
}

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

#[test]
fn a_lone_survivor_goes_on_with_its_own_log_and_the_others_never_come_back() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 40);
    cluster.await_equal(1, 2);
    // Its log begins behind the writes, and goes on with what begins terms.
    let endpoint = cluster.admin(1);
    let create = ["snapshot", "create", "--endpoint", &endpoint];
    cluster.says(&create, 0, "SNAPSHOT");
    for node in [2, 3] {
        cluster.kill(node);
    }
    for node in [2, 3] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 3]);
    cluster.await_equal(1, 2);
    cluster.says(&create, 0, "SNAPSHOT");
    cluster.kill(1);
    // Acknowledged by nodes that will be lost.
    cluster.write(2, "lost", 10);
    let config = cluster.config(1);
    let words = shrink(config.to_str().unwrap(), "1");
    cluster.says(&words, 4, "--ignore-live-quorum");
    cluster.kill(2);
    cluster.kill(3);

    let plan = cluster.says(&words, 0, "Nothing was changed");
    assert!(
        plan.contains("then: epoch 1, members 1=127.0.0.1"),
        "{plan}"
    );
    assert!(
        plan.contains("May be lost: writes that were acknowledged"),
        "{plan}"
    );
    assert!(
        !plan.contains(" ? "),
        "when its newest write was made is not known: {plan}"
    );
    let stranger = shrink(config.to_str().unwrap(), "1,7");
    cluster.says(&stranger, 2, "node 7 is no member of epoch 0");
    let other = shrink(config.to_str().unwrap(), "2");
    cluster.says(&other, 2, "not among the survivors");
    let all = shrink(config.to_str().unwrap(), "1,2,3");
    cluster.says(&all, 2, "nothing is to be repaired");
    let apply = with(&words, &["--apply"]);
    cluster.says(&apply, 0, "node 1 is of epoch 1");
    cluster.says(&apply, 0, "with these survivors already");

    cluster.run(1);
    cluster.await_leaders(&[1]);
    assert_eq!(cluster.missing(1, "kept", 40), 0);
    let lost = cluster.missing(1, "lost", 10);
    assert_eq!(lost, 10, "nobody has them");
    cluster.write(1, "later", 5);
    for node in [2, 3] {
        cluster.refuses(node, 78, &format!("replica {node} was removed"));
    }
    // Not even without data.
    std::fs::remove_dir_all(cluster.data(2)).unwrap();
    cluster.refuses(2, 78, "replica 2 was removed");
    let config = cluster.config(2);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 4, "replica 2 was removed");
    println!("quorum loss and shrink: lost {lost} writes that only the lost nodes held");
}

#[test]
fn two_survivors_of_five_go_on_with_the_newest_of_their_logs() {
    let members = [1, 2, 3, 4, 5];
    let mut cluster = Cluster::new("");
    for node in members {
        cluster.configure(node, &members);
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.write(1, "all", 20);
    cluster.await_equal(1, 3);
    cluster.kill(1);
    // Only one of the survivors takes part in these.
    cluster.write(2, "some", 20);
    cluster.await_equal(2, 3);
    for node in [2, 3, 4, 5] {
        cluster.kill(node);
    }
    let configs = [1, 2].map(|node| cluster.config(node));
    let configs = configs.each_ref().map(|path| path.to_str().unwrap());
    let plans = [1, 2].map(|node| cluster.directory().join(format!("plan{node}")));
    let plans = plans.each_ref().map(|path| path.to_str().unwrap());
    let written = with(&shrink(configs[0], "1,2"), &["--write-plan", plans[0]]);
    cluster.says(&written, 0, "what node 2 holds, which may be newer");
    let written = with(&shrink(configs[1], "2,1"), &["--write-plan", plans[1]]);
    cluster.says(&written, 0, "Nothing was changed");
    let both = plans.join(",");
    let apply = ["--plans", &both, "--apply"];
    let applied = with(&shrink(configs[0], "1,2"), &apply);
    cluster.says(&applied, 0, "node 1 is of epoch 1");
    cluster.run(1);
    cluster.refuses(2, 78, "node 2 is fenced: it comes from epoch 0");
    let applied = with(&shrink(configs[1], "2,1"), &apply);
    cluster.says(&applied, 0, "node 2 is of epoch 1");
    cluster.run(2);
    cluster.await_leaders(&[1, 2]);
    assert_eq!(
        cluster.missing(1, "all", 20) + cluster.missing(1, "some", 20),
        0
    );
    cluster.await_equal(1, 2);
    println!("quorum loss of five and shrink to two: nothing was lost");
}

#[test]
fn three_survivors_of_seven_wait_for_the_one_that_holds_most() {
    let members = [1, 2, 3, 4, 5, 6, 7];
    let mut cluster = Cluster::new("");
    for node in members {
        cluster.configure(node, &members);
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.write(1, "all", 10);
    cluster.await_equal(1, 3);
    cluster.kill(1);
    cluster.kill(2);
    cluster.write(3, "some", 10);
    cluster.await_equal(3, 4);
    for node in [3, 4, 5, 6, 7] {
        cluster.kill(node);
    }
    let survivors = [1, 2, 3];
    let configs = survivors.map(|node| cluster.config(node));
    let plans = survivors.map(|node| cluster.directory().join(format!("plan{node}")));
    let configs = configs.each_ref().map(|path| path.to_str().unwrap());
    let plans = plans.each_ref().map(|path| path.to_str().unwrap());
    for (config, plan) in configs.iter().zip(plans) {
        let words = with(&shrink(config, "1,2,3"), &["--write-plan", plan]);
        cluster.says(&words, 0, "Nothing was changed");
    }
    let alone = with(&shrink(configs[0], "1,2,3"), &["--apply"]);
    cluster.says(&alone, 4, "--write-plan FILE");
    let all = plans.join(",");
    for config in configs {
        let words = with(&shrink(config, "1,2,3"), &["--plans", &all, "--apply"]);
        cluster.says(&words, 0, "is of epoch 1");
    }
    // A majority of the survivors, which would lose what the third holds.
    cluster.run(1);
    cluster.run(2);
    until("they have found each other", || {
        cluster.connected(1) == 1 && cluster.connected(2) == 1
    });
    std::thread::sleep(5 * ELECTION_TIMEOUT);
    for node in [1, 2] {
        let leads = |it: &serde_json::Value| it["role"] == "leader";
        assert!(
            !cluster.groups(node).iter().any(leads),
            "it leads without the newest entries"
        );
    }
    cluster.run(3);
    cluster.await_leaders(&survivors);
    assert_eq!(
        cluster.missing(1, "all", 10) + cluster.missing(1, "some", 10),
        0
    );
    cluster.await_equal(1, 3);
    cluster.await_equal(2, 3);
    println!("quorum loss of seven and shrink to three: nothing was lost");
}
