//! The configuration printed in the README is a good one.

use std::fs;
use std::path::Path;

/// The README's fenced TOML blocks, in order.
fn blocks(readme: &str) -> Vec<String> {
    let parts = readme.split("```toml\n").skip(1);
    parts.filter_map(|part| part.split_once("```")).map(|(block, _)| block.to_owned()).collect()
}

#[test]
fn the_configuration_in_the_readme_loads() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let blocks = blocks(&readme);
    assert_eq!(blocks.len(), 2, "configuration and registry");
    let folder = std::env::temp_dir().join(format!("mtls-readme-{}", std::process::id()));
    dev_pki::generate(&folder).unwrap();
    fs::write(folder.join("appliance.toml"), &blocks[0]).unwrap();
    fs::write(folder.join("registry.toml"), &blocks[1]).unwrap();
    let live = mtls_appliance::app::load(&folder.join("appliance.toml"), 1).map_err(|error| error.to_string());
    fs::remove_dir_all(&folder).unwrap();
    let live = live.unwrap();
    assert_eq!(live.verifier.registry().organisations.len(), 1);
    assert!(live.config.guard.is_some());
}
