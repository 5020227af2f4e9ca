//! `target/provision/tools/`: curl, openssl, nginx, ip and strace as Debian builds them, with their libraries.
//!
//! The wrappers in `wrap/` start them through their own dynamic loader, so that neither the libraries nor the
//! configuration of the machine matter, and the tree works wherever it is placed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    debian,
    progress::note,
    workspace::{Workspace, create_dir, read, write},
};

const ROOT: &str = "tools";
/// The folder with the wrappers.
const WRAP: &str = "wrap";
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// A program, the arguments that it always gets first, and what else its environment has.
pub(crate) struct Wrapper {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static str,
    /// Lines of the script; `$root` is the tree.
    pub(crate) environment: &'static str,
}

const WRAPPERS: [Wrapper; 5] = [
    // Neither a ~/.curlrc nor a proxy of the machine may change what a test sends.
    Wrapper { name: "curl", program: "usr/bin/curl", arguments: " -q --noproxy '*'", environment: "" },
    Wrapper { name: "openssl", program: "usr/bin/openssl", arguments: "", environment: "" },
    // Until its configuration is read, nginx would log to a file of the machine.
    Wrapper { name: "nginx", program: "usr/sbin/nginx", arguments: " -e stderr", environment: "" },
    Wrapper { name: "ip", program: "bin/ip", arguments: "", environment: "" },
    // Stands in for a kernel that lacks a system call.
    Wrapper { name: "strace", program: "usr/bin/strace", arguments: "", environment: "" },
];

/// The unpacked tools.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Makes sure that they are there.
    pub(crate) fn provision(workspace: &Workspace) -> Result<Self> {
        let root = debian::provision(workspace, ROOT)?;
        wrap(&root, &WRAPPERS)?;
        Ok(Self { root })
    }

    /// The tree: everything the tools need is below.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory to put in PATH.
    pub(crate) fn wrappers(&self) -> PathBuf {
        self.root.join(WRAP)
    }

    /// The static busybox.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.root.join("bin/busybox")
    }

    /// What the packages were, for caches built from them.
    pub(crate) fn stamp(workspace: &Workspace) -> Result<String> {
        debian::stamp(workspace, ROOT)
    }
}

/// The command: unpacks and says where.
pub(crate) fn main(workspace: &Workspace) -> Result<()> {
    let tools = Tools::provision(workspace)?;
    note(format!("curl, openssl, nginx, ip and strace are in {}", tools.wrappers().display()));
    Ok(())
}

/// Writes the wrappers of a tree, and returns the directory to put in PATH.
pub(crate) fn wrap(root: &Path, wrappers: &[Wrapper]) -> Result<PathBuf> {
    let folder = root.join(WRAP);
    create_dir(&folder)?;
    for wrapper in wrappers {
        let path = folder.join(wrapper.name);
        let script = script(wrapper);
        if read(&path).is_ok_and(|present| present == script) {
            continue;
        }
        write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", path.display()))?;
    }
    Ok(folder)
}

fn script(wrapper: &Wrapper) -> String {
    let Wrapper { name, program, arguments, environment } = wrapper;
    format!(
        r#"#!/bin/sh
# Runs the {name} of this tree with the libraries of this tree, wherever the tree is.
case $0 in
/*) root=${{0%/*}}/.. ;;
*) root=$PWD/${{0%/*}}/.. ;;
esac
export OPENSSL_CONF="$root/etc/ssl/openssl.cnf"
export OPENSSL_MODULES="$root/usr/lib/x86_64-linux-gnu/ossl-modules"
{environment}exec "$root/{LOADER}" --argv0 {name} \
    --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" \
    "$root/{program}"{arguments} "$@"
"#
    )
}
