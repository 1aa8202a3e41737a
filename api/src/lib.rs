//! The types of `kerbside.dev/v1alpha1` and the CustomResourceDefinitions made from them.
//!
//! Called by every crate that reads or writes our objects, and by the `crds` program, which writes `crds/`. Nothing
//! here decides anything: a rule stands here only if the API server can enforce it by itself. What the API server lets
//! in must be readable by these types; a schema that is wider than its type would make objects that no reconciler can
//! read.
#![deny(missing_docs)]

pub mod crd;
mod schema;
pub mod v1alpha1;
