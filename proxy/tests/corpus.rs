//! Runs the fuzz targets over their corpus, in which each find of theirs is kept.

use std::{fs, path::Path};

#[expect(
    unreachable_pub,
    reason = "it is a library of its own, shared as a file"
)]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

#[test]
fn the_corpus_breaks_no_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut files = 0;
        for file in fs::read_dir(corpus.join(name)).expect("each target has a corpus") {
            let path = file.expect("the corpus can be listed").path();
            println!("{}", path.display());
            target(&fs::read(&path).expect("the corpus can be read"));
            files += 1;
        }
        assert!(files > 0, "the corpus of {name} is empty");
    }
}
