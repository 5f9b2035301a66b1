//! What the fuzzers have found so far, once more: `fuzz/corpus/TARGET/*`.
#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};
use weft_fuzz::TARGETS;

/// Bytes of corpus that the repository carries, at most.
const LIMIT: u64 = 300 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn nothing_that_was_ever_found_breaks_a_promise() {
    let mut broken = Vec::new();
    for (target, check) in TARGETS {
        let inputs = files(&corpus().join(target));
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            if catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err() {
                broken.push(input.display().to_string());
            }
        }
    }
    assert!(broken.is_empty(), "promises are broken by {}", broken.join(", "));
}

#[test]
fn every_target_has_a_corpus_a_fuzzer_and_a_line_in_the_documents() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let name = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let corpora: BTreeSet<String> = files(&corpus()).iter().map(name).collect();
    let fuzzers: BTreeSet<String> = files(&corpus().join("../fuzz_targets")).iter().map(name).collect();
    assert_eq!((&corpora, &fuzzers), (&targets, &targets));
    let documents = fs::read_to_string(corpus().join("../../docs/fuzzing.md")).unwrap();
    for target in targets {
        assert!(documents.contains(&format!("| `{target}` |")), "{target} is not in docs/fuzzing.md");
    }
}

#[test]
fn the_corpus_stays_small() {
    let size = |path: PathBuf| fs::metadata(path).unwrap().len();
    let all: u64 = files(&corpus()).iter().flat_map(|folder| files(folder)).map(size).sum();
    assert!(all < LIMIT, "{all} bytes");
}
