//! Level pure. The rules of the house, read off the tree itself: who may depend on whom, where `unsafe` lives, how long a
//! file may grow, which names are holes in the design, and that what the papers cite exists.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use tests::tree::{Tree, rust_code};

/// Crates of the workspace and those of them that each may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 7] = [
    ("api", &[]),
    ("block", &[]),
    ("bench", &["block"]),
    ("agent", &["api", "block", "bench"]),
    ("controller", &["api"]),
    ("cli", &["api"]),
    (
        "tests",
        &["api", "block", "bench", "agent", "controller", "cli"],
    ),
];

/// What knows of Kubernetes, and what knows of devices. They meet only in the agent.
const OF_KUBERNETES: [&str; 5] = ["kube", "k8s-openapi", "tonic", "prost", "schemars"];
const OF_DEVICES: [&str; 4] = ["io-uring", "tokio-uring", "netlink-sys", "libc"];

const UNSAFE_FILE: &str = "block/src/sys.rs";
const UNSAFE_BLOCKS_MAX: usize = 25;
const UNSAFE_LINES_MAX: usize = 550;
const FILE_LINES_MAX: usize = 600;
const FOLDER_DEPTH_MAX: usize = 3;

/// Fails with all breaches at once.
fn hold(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let crates = tests::tree::crates();
    let mut breaches = Vec::new();
    let members: BTreeSet<&str> = MAY_DEPEND_ON.iter().map(|(name, _)| *name).collect();
    for (name, dependencies) in &crates {
        let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(of, _)| of == name) else {
            breaches.push(format!("the crate {name} is not in this test's table"));
            continue;
        };
        let strange: &[&str] = match name.as_str() {
            "block" | "bench" => &OF_KUBERNETES,
            "api" | "controller" | "cli" => &OF_DEVICES,
            _ => &[],
        };
        for dependency in dependencies {
            let ours = members.contains(dependency.as_str());
            if ours && !allowed.contains(&dependency.as_str())
                || strange.contains(&dependency.as_str())
            {
                breaches.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert_eq!(crates.len(), MAY_DEPEND_ON.len());
    hold("a crate knows only what is below it", &breaches);
}

#[test]
fn every_dependency_is_used() {
    let tree = Tree::read();
    let mut breaches = Vec::new();
    for (name, dependencies) in tests::tree::crates() {
        let code: Vec<&str> = tree
            .rust()
            .filter(|(path, _)| path.starts_with(&format!("{name}/")))
            .map(|(_, text)| text)
            .collect();
        for dependency in dependencies {
            let word = dependency.replace('-', "_");
            // The generated CSI module alone names these two.
            if word == "prost" || word == "prost_types" || word == "tonic_prost" {
                continue;
            }
            if !code.iter().any(|text| names_crate(text, &word)) {
                breaches.push(format!(
                    "{name} depends on {dependency} and does not name it"
                ));
            }
        }
    }
    hold("what is not used is deleted", &breaches);
}

/// Whether `text` says `word::` or `use word`.
fn names_crate(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = &text[at + word.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

#[test]
fn no_name_is_a_hole_in_the_design() {
    const HOLES: [&str; 10] = [
        "common", "util", "utils", "core", "shared", "helper", "helpers", "misc", "base", "v2",
    ];
    let tree = Tree::read();
    let mut breaches: Vec<String> = tree
        .paths()
        .filter(|path| {
            path.split('/')
                .any(|part| HOLES.contains(&part.split('.').next().unwrap_or(part)))
        })
        .map(str::to_owned)
        .collect();
    for (path, text) in tree.rust() {
        for line in text.lines() {
            let line = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            if let Some(name) = line.strip_prefix("mod ")
                && HOLES.contains(&name.trim_end_matches([';', ' ', '{']))
            {
                breaches.push(format!("{path}: {line}"));
            }
        }
    }
    hold("code without a home shows a hole in the design", &breaches);
}

#[test]
fn unsafe_lives_in_one_small_file() {
    let tree = Tree::read();
    let mut breaches = Vec::new();
    for (path, text) in tree.rust() {
        let blocks = rust_code(text)
            .map(|(_, line)| {
                line.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .filter(|word| *word == "unsafe")
                    .count()
            })
            .sum::<usize>();
        if path == UNSAFE_FILE {
            println!(
                "{path}: {blocks} unsafe blocks, {} lines",
                text.lines().count()
            );
            if blocks > UNSAFE_BLOCKS_MAX || text.lines().count() > UNSAFE_LINES_MAX {
                breaches.push(format!(
                    "{path} holds {blocks} in {} lines",
                    text.lines().count()
                ));
            }
        } else if blocks > 0 {
            breaches.push(format!("{path} holds {blocks}"));
        }
    }
    for (name, _) in tests::tree::crates() {
        let lib = format!("{name}/src/lib.rs");
        if name != "block" && !tree.text(&lib).contains("#![forbid(unsafe_code)]") {
            breaches.push(format!("{lib} does not forbid it"));
        }
    }
    hold(
        "unsafe: at most 25 blocks in block/src/sys.rs, none elsewhere",
        &breaches,
    );
}

/// No health check, probe or erasure sends a drive commands of its own: nothing but our own code holds those to reads.
#[test]
fn passthrough_is_for_people() {
    const OURS: [&str; 5] = [
        "block/src/",
        "bench/src/main.rs",
        "bench/src/jobs.rs",
        "tests/src/bin/reads-alike.rs",
        "tests/tests/tidy.rs",
    ];
    let tree = Tree::read();
    let breaches: Vec<String> = tree
        .rust()
        .filter(|(path, text)| {
            text.contains("open_passthrough") && !OURS.iter().any(|ours| path.starts_with(ours))
        })
        .map(|(path, _)| path.to_owned())
        .collect();
    hold("passthrough is opened by ringpv-bench run alone", &breaches);
}

#[test]
fn files_stay_short_and_folders_shallow() {
    let tree = Tree::read();
    let mut lengths: Vec<(usize, &str)> = tree
        .code()
        .map(|(path, text)| (text.lines().count(), path))
        .collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    println!("the ten longest files:");
    for (lines, path) in lengths.iter().take(10) {
        println!("{lines:6} {path}");
    }
    let mut breaches: Vec<String> = lengths
        .iter()
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path} has {lines} lines"))
        .collect();
    breaches.extend(
        tree.paths()
            // Within its crate.
            .filter(|path| path.matches('/').count() > FOLDER_DEPTH_MAX + 1)
            .map(|path| format!("{path} lies too deep")),
    );
    hold(
        "a file has at most 600 lines, a folder lies at most 3 deep in its crate",
        &breaches,
    );
}

#[test]
fn kernel_notes_and_code_cite_each_other() {
    let tree = Tree::read();
    let notes: BTreeMap<&str, &str> = tree
        .paths()
        .filter_map(|path| path.strip_prefix("kernel-notes/"))
        .filter(|name| *name != "README.md")
        .map(|name| (&name[..2], name))
        .collect();
    assert!(!notes.is_empty(), "there are no kernel notes");
    let mut breaches = Vec::new();
    let mut cited: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, text) in tree.code() {
        for (at, word) in text.match_indices("kernel-notes/") {
            let number = text.get(at + word.len()..at + word.len() + 2).unwrap_or("");
            if notes.contains_key(number) {
                cited.entry(number).or_default().insert(path);
            } else if number.bytes().all(|b| b.is_ascii_digit()) {
                breaches.push(format!(
                    "{path} cites kernel-notes/{number}, which does not exist"
                ));
            }
        }
    }
    let index = tree.text("kernel-notes/README.md");
    for (number, name) in &notes {
        let text = tree.text(&format!("kernel-notes/{name}"));
        for part in [
            "Claim",
            "Since",
            "Evidence",
            "What we do",
            "How to re-check",
        ] {
            if !text.contains(part) {
                breaches.push(format!("kernel-notes/{name} lacks \"{part}\""));
            }
        }
        if !index.contains(name) {
            breaches.push(format!("kernel-notes/README.md does not list {name}"));
        }
        match cited.get(number) {
            None => breaches.push(format!("no code cites kernel-notes/{name}")),
            Some(paths) if !paths.iter().any(|path| text.contains(path)) => {
                breaches.push(format!(
                    "kernel-notes/{name} names none of the files that cite it: {paths:?}"
                ));
            }
            Some(_) => {}
        }
    }
    hold(
        "a claim about the kernel is a note, cited both ways",
        &breaches,
    );
}

#[test]
fn the_tree_speaks_of_itself_alone() {
    // Written in pieces, so that this file does not breach its own rule.
    let words: Vec<String> = [
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/tm", "p/"),
        ("crates", ".io"),
        ("docker", ".io"),
        ("quay", ".io"),
        ("ghcr", ".io"),
        ("gcr", ".io"),
        ("registry", ".k8s"),
        ("proxy", ".golang"),
        ("deb", ".debian.org"),
        ("TO", "DO"),
        ("FIX", "ME"),
        ("#[ig", "nore"),
        ("unimpl", "emented!"),
    ]
    .map(|(a, b)| format!("{a}{b}"))
    .to_vec();
    let tree = Tree::read();
    let mut breaches = Vec::new();
    for (path, text) in tree.all().filter(|(path, _)| *path != "Cargo.lock") {
        for (index, line) in text.lines().enumerate() {
            let breached = words.iter().filter(|word| begins_in(line, word));
            for word in breached.filter(|word| !is_the_upstreams(path, word)) {
                breaches.push(format!("{path}:{}: {word}", index + 1));
            }
        }
    }
    hold(
        "no paths of a machine, no registries, nothing left to do",
        &breaches,
    );
}

/// An installation names where Kubernetes publishes the sidecars.
fn is_the_upstreams(path: &str, word: &str) -> bool {
    let names = ["deploy/kubernetes", "cli/src/install/"];
    word.ends_with(".k8s") && names.iter().any(|name| path.starts_with(name))
}

/// Whether `word` begins somewhere in `line`, and is no part of a longer path.
fn begins_in(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() && word.starts_with('/'))
    })
}

#[test]
fn every_reason_is_given_somewhere() {
    let tree = Tree::read();
    let breaches: Vec<String> = api::Reason::ALL
        .iter()
        .filter(|reason| {
            let name = format!("Reason::{}", reason.as_str());
            !tree.rust().any(|(path, text)| {
                path.contains("/src/")
                    && path != "api/src/reason.rs"
                    && path != "api/src/status.rs"
                    && text.contains(&name)
            })
        })
        .map(|reason| format!("Reason::{reason} is given by nobody"))
        .collect();
    hold("no reason without somebody who gives it", &breaches);
}

#[test]
fn what_the_readme_names_exists() {
    let tree = Tree::read();
    let readme = tree.text("README.md");
    let mut breaches = Vec::new();
    let mut commands = 0;
    for word in readme.split(|c: char| c.is_whitespace() || "`()[],;|".contains(c)) {
        let path = word.trim_end_matches(['.', ':', '/']);
        let ours = [
            "tests/",
            "deploy/",
            ".ci/",
            "api/",
            "agent/",
            "block/",
            "bench/",
            "cli/",
            "controller/",
            "docs/",
            "kernel-notes/",
        ]
        .iter()
        .any(|root| path.starts_with(root));
        if ours && !path.contains(['{', '*']) && !tree.exists(path) {
            breaches.push(format!("README.md names {path}"));
        }
    }
    for line in readme.lines() {
        let line = line.trim_start().trim_start_matches("sudo ");
        let first = line.split_whitespace().next().unwrap_or("");
        if (first.starts_with("tests/") || first.starts_with("deploy/")) && tree.exists(first) {
            commands += 1;
            if !tree.executable(first) {
                breaches.push(format!("README.md: {first} is not executable"));
            }
        }
    }
    assert!(
        commands >= 2,
        "README.md gives two commands, found {commands}"
    );
    hold("what the README names exists", &breaches);
}
