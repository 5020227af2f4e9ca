//! The appliance's configuration file as a test writes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use toml::{Table, Value};

/// A configuration that works, to be changed by dotted keys.
#[derive(Debug, Clone)]
pub struct Settings {
    table: Table,
}

impl Settings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(Self { table: text.parse().context("test configuration")? })
    }

    /// Sets one key, creating tables on the way.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (last, tables) = split(key);
        let mut table = &mut self.table;
        for name in tables {
            let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            let Value::Table(next) = entry else {
                return self;
            };
            table = next;
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Removes one key or table.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        let (last, tables) = split(key);
        let mut table = &mut self.table;
        for name in tables {
            let Some(Value::Table(next)) = table.get_mut(name) else {
                return self;
            };
            table = next;
        }
        table.remove(last);
        self
    }

    /// Adds a field to `[identity] headers`.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        let mut headers = match self.table.get("identity").and_then(|identity| identity.get("headers")) {
            Some(Value::Array(headers)) => headers.clone(),
            _ => Vec::new(),
        };
        let mut header = Table::new();
        header.insert("name".to_owned(), name.into());
        header.insert("value".to_owned(), value.into());
        headers.push(Value::Table(header));
        self.set("identity.headers", headers)
    }

    /// The first listener address, as a caller on the same host would use it.
    ///
    /// # Errors
    /// When there is none.
    pub fn listener(&self) -> anyhow::Result<SocketAddr> {
        let address = self.table.get("listener").and_then(|listener| listener.get("addresses")?.get(0)?.as_str());
        let mut address: SocketAddr = address.context("listener.addresses is empty")?.parse()?;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Ok(address)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(&self.table)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn split(key: &str) -> (&str, Vec<&str>) {
    let mut parts: Vec<_> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    (last, parts)
}
