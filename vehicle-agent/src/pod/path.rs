//! Names and paths of a Pod that become paths in the car.
//!
//! What must never happen: one that leads out of the attempt's own directories.

use std::path::{Component, Path};

/// Names become parts of paths.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let ok = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-');
    if ok {
        Ok(())
    } else {
        Err("the name is not a DNS label".to_owned())
    }
}

/// An absolute path without `..`, in its shortest form.
pub(super) fn absolute(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("'{path}' is not an absolute path"));
    }
    Ok(format!("/{}", inside(path.trim_start_matches('/'))?))
}

/// A relative path without `..`, in its shortest form.
pub(super) fn inside(path: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(format!("'{path}' must be a path without '..'"));
            }
        }
    }
    Ok(parts.join("/"))
}
