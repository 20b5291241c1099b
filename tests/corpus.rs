//! What the fuzzer found worth keeping, replayed: each input of tests/fuzz/corpus against its target.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

#[test]
fn every_input_of_the_corpus_is_taken_as_its_target_says() {
    for (name, target) in targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 10, "{} has only {} inputs", folder.display(), inputs.len());
        for input in inputs {
            let bytes = std::fs::read(&input).unwrap();
            assert!(std::panic::catch_unwind(|| target(&bytes)).is_ok(), "{}", input.display());
        }
    }
}
