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
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// A program and the arguments that it always gets first.
struct Wrapper {
    name: &'static str,
    program: &'static str,
    arguments: &'static str,
}

const WRAPPERS: [Wrapper; 5] = [
    // Neither a ~/.curlrc nor a proxy of the machine may change what a test sends.
    Wrapper { name: "curl", program: "usr/bin/curl", arguments: " -q --noproxy '*'" },
    Wrapper { name: "openssl", program: "usr/bin/openssl", arguments: "" },
    // Until its configuration is read, nginx would log to a file of the machine.
    Wrapper { name: "nginx", program: "usr/sbin/nginx", arguments: " -e stderr" },
    Wrapper { name: "ip", program: "bin/ip", arguments: "" },
    // Stands in for a kernel that lacks a system call.
    Wrapper { name: "strace", program: "usr/bin/strace", arguments: "" },
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
        let tools = Self { root };
        create_dir(&tools.wrappers())?;
        for wrapper in &WRAPPERS {
            let path = tools.wrappers().join(wrapper.name);
            let script = script(wrapper);
            if read(&path).is_ok_and(|present| present == script) {
                continue;
            }
            write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("cannot make {} executable", path.display()))?;
        }
        Ok(tools)
    }

    /// The tree: everything the tools need is below.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory to put in PATH.
    pub(crate) fn wrappers(&self) -> PathBuf {
        self.root.join("wrap")
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

fn script(wrapper: &Wrapper) -> String {
    let Wrapper { name, program, arguments } = wrapper;
    format!(
        r#"#!/bin/sh
# Runs the {name} of this tree with the libraries of this tree, wherever the tree is.
case $0 in
/*) root=${{0%/*}}/.. ;;
*) root=$PWD/${{0%/*}}/.. ;;
esac
export OPENSSL_CONF="$root/etc/ssl/openssl.cnf"
export OPENSSL_MODULES="$root/usr/lib/x86_64-linux-gnu/ossl-modules"
exec "$root/{LOADER}" --argv0 {name} \
    --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" \
    "$root/{program}"{arguments} "$@"
"#
    )
}
