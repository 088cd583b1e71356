//! The C header: generated, committed, compared.

use std::fs;
use std::path::Path;

const HEADER: &str = "engine/ffi/include/drakkar.h";

fn generate(root: &Path) -> Result<String, String> {
    let folder = root.join("engine/ffi");
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml"))?;
    let source = folder.join("src/lib.rs");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(source)
        .generate();
    let mut text = Vec::new();
    bindings
        .map_err(|error| error.to_string())?
        .write(&mut text);
    String::from_utf8(text).map_err(|error| error.to_string())
}

/// Writes the header.
pub(crate) fn write(root: &Path) -> Result<(), String> {
    fs::write(root.join(HEADER), generate(root)?).map_err(|error| format!("{HEADER}: {error}"))
}

/// Compares the committed header with what the source says.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let committed = fs::read_to_string(root.join(HEADER));
    let committed = committed.map_err(|error| format!("{HEADER}: {error}"))?;
    if committed == generate(root)? {
        Ok(())
    } else {
        Err(format!(
            "{HEADER} is not what the source says: run `cargo xtask header`"
        ))
    }
}
