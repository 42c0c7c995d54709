//! Build records.

use std::cell::RefCell;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Meta;
use super::images::{damaged, digest_at, layers_at, layers_text};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::records::BuildRecord;

const COLUMNS: &str = "key, step, name, layers, parts, detail, created, elapsed_ms";

/// Records of one step that are read for explanations.
const HISTORY: u32 = 50;

fn record(row: &Row<'_>) -> rusqlite::Result<BuildRecord> {
    let json = |column| row.get::<_, String>(column);
    Ok(BuildRecord {
        key: digest_at(row, 0)?,
        step: row.get(1)?,
        name: row.get(2)?,
        layers: layers_at(row, 3)?,
        parts: serde_json::from_str(&json(4)?).map_err(|error| damaged(4, error))?,
        detail: serde_json::from_str(&json(5)?).map_err(|error| damaged(5, error))?,
        created_unix: row.get(6)?,
        elapsed_ms: row.get::<_, i64>(7)? as u64,
    })
}

fn by_key(connection: &Connection, key: &Digest) -> rusqlite::Result<Option<BuildRecord>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM records WHERE key = ?1"))?
        .query_row([key.hex()], record)
        .optional()
}

/// The last records of a step, most recent first.
fn by_step(connection: &Connection, step: &str, most: u32) -> rusqlite::Result<Vec<BuildRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM records WHERE step = ?1 \
             ORDER BY created DESC, rowid DESC LIMIT {most}"
        ))?
        .query_map([step], record)?
        .collect()
}

/// Reads build records in one state of the database.
#[derive(Debug)]
pub struct RecordReader<'c> {
    connection: &'c Connection,
    /// The first thing that went wrong; from then on nothing is found.
    error: RefCell<Option<rusqlite::Error>>,
}

impl RecordReader<'_> {
    /// What a build key gave.
    pub fn record(&self, key: &Digest) -> Option<BuildRecord> {
        self.read(|connection| by_key(connection, key))
    }

    /// What a step gave when it last ran.
    pub fn last(&self, step: &str) -> Option<BuildRecord> {
        self.read(|connection| Ok(by_step(connection, step, 1)?.pop()))
    }

    fn read(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<Option<BuildRecord>>,
    ) -> Option<BuildRecord> {
        let before = self.error.take();
        let result = match before {
            None => query(self.connection),
            Some(error) => Err(error),
        };
        result.unwrap_or_else(|error| {
            self.error.replace(Some(error));
            None
        })
    }
}

impl Meta {
    pub(crate) fn record(&self, key: &Digest) -> Result<Option<BuildRecord>, StoreError> {
        self.run("look a build record up", |connection| {
            by_key(connection, key)
        })
    }

    /// Reads several records in one transaction.
    pub(crate) fn look_up_records<T>(
        &self,
        mut ask: impl FnMut(&RecordReader<'_>) -> T,
    ) -> Result<T, StoreError> {
        self.run("look build records up", |connection| {
            let transaction = connection.transaction()?;
            let reader = RecordReader {
                connection: &transaction,
                error: RefCell::new(None),
            };
            let answer = ask(&reader);
            match reader.error.into_inner() {
                None => Ok(answer),
                Some(error) => Err(error),
            }
        })
    }

    pub(crate) fn put_record(&self, record: &BuildRecord) -> Result<(), StoreError> {
        let document = |error: serde_json::Error| StoreError::Document {
            what: "a build record".to_owned(),
            reason: error.to_string(),
        };
        let parts = serde_json::to_string(&record.parts).map_err(document)?;
        let detail = serde_json::to_string(&record.detail).map_err(document)?;
        self.write("write a build record", |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO records (key, step, name, layers, parts, detail, created, \
                 elapsed_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    record.key.hex(),
                    record.step,
                    record.name,
                    layers_text(&record.layers),
                    parts,
                    detail,
                    record.created_unix,
                    record.elapsed_ms as i64,
                ],
            )?;
            Ok(())
        })
    }

    /// Records of a step, most recent first.
    pub(crate) fn records_by_name(&self, step: &str) -> Result<Vec<BuildRecord>, StoreError> {
        self.run("list build records", |connection| {
            by_step(connection, step, HISTORY)
        })
    }

    /// How long a step took when it last ran, in milliseconds.
    pub(crate) fn last_duration(&self, step: &str) -> Result<Option<u64>, StoreError> {
        self.run("look a build record up", |connection| {
            connection
                .prepare_cached(
                    "SELECT elapsed_ms FROM records WHERE step = ?1 \
                     ORDER BY created DESC LIMIT 1",
                )?
                .query_row([step], |row| row.get::<_, i64>(0))
                .optional()
                .map(|found| found.map(|elapsed| elapsed as u64))
        })
    }

    /// All records, most recent first.
    pub(crate) fn all_records(&self) -> Result<Vec<BuildRecord>, StoreError> {
        self.run("list build records", |connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM records ORDER BY created DESC, rowid DESC"
                ))?
                .query_map([], record)?
                .collect()
        })
    }

    pub(crate) fn remove_records(&self, keys: &[Digest]) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        self.write("remove build records", |transaction| {
            let mut statement = transaction.prepare("DELETE FROM records WHERE key = ?1")?;
            let mut removed = 0;
            for key in keys {
                removed += statement.execute([key.hex()])? as u64;
            }
            Ok(removed)
        })
    }
}
