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
    let [configuration, registry, sites] = &*blocks else { panic!("configuration, registry and sites") };
    let folder = std::env::temp_dir().join(format!("mtls-readme-{}", std::process::id()));
    dev_pki::generate(&folder).unwrap();
    fs::write(folder.join("one.toml"), configuration).unwrap();
    fs::write(folder.join("several.toml"), format!("{configuration}{sites}")).unwrap();
    fs::write(folder.join("registry.toml"), registry).unwrap();
    let load = |name| mtls_appliance::app::load(&folder.join(name), None).map_err(|error| error.to_string());
    let (one, several) = (load("one.toml"), load("several.toml"));
    fs::remove_dir_all(&folder).unwrap();
    let (one, several) = (one.unwrap(), several.unwrap());
    assert_eq!(one.verifier.registry().organisations.len(), 1);
    assert!(one.config.guard.is_some());
    assert_eq!((several.config.origins.len(), several.config.sites.len()), (2, 2));
    assert_eq!(several.warnings, Vec::<String>::new());
}
