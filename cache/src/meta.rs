//! The metadata database: images and their names, build records, blobs of layers.
//!
//! `SQLite` in WAL mode, since several processes use one store. Rows are few and small. A build that
//! changes nothing writes nothing: the last connection to close would otherwise write the WAL back
//! into the database, so that is switched off and left to writers. They do it when they close and the
//! WAL has become long: whoever opens the database alone reads all of it, two milliseconds for 600 pages.
//!
//! Names are written with `synchronous=FULL`; a record may be lost in a power cut. A database that
//! turns out damaged is set aside and begun anew: blobs and trees do not depend on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::StoreError;
use crate::layout::Layout;
use crate::lock::{Hold, StoreLock};
use crate::session::Scratch;

mod images;
mod layer_blobs;
pub(crate) use layer_blobs::KnownBlob;
mod pins;
mod records;
pub use records::RecordReader;

/// Version of the tables, kept in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;

/// Longest wait for another process's transaction.
const BUSY: Duration = Duration::from_secs(30);

/// Writes the WAL back into the database and empties it.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Size in bytes from which on a writer that closes writes the WAL back: some ten steps.
const LONG_WAL: u64 = 512 << 10;

const SCHEMA: &str = "
CREATE TABLE images (
    manifest      TEXT PRIMARY KEY NOT NULL,
    media_type    TEXT NOT NULL,
    manifest_size INTEGER NOT NULL,
    config        TEXT NOT NULL,
    created       TEXT,
    size          INTEGER NOT NULL,
    layers        TEXT NOT NULL,
    added         INTEGER NOT NULL
) STRICT;
CREATE INDEX images_config ON images (config);
CREATE TABLE names (
    name     TEXT PRIMARY KEY NOT NULL,
    manifest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX names_manifest ON names (manifest);
CREATE TABLE records (
    key        TEXT PRIMARY KEY NOT NULL,
    step       TEXT NOT NULL,
    name       TEXT NOT NULL,
    layers     TEXT NOT NULL,
    parts      TEXT NOT NULL,
    detail     TEXT NOT NULL,
    created    INTEGER NOT NULL,
    elapsed_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX records_step ON records (step, created);
CREATE TABLE layer_blobs (
    diff_id TEXT NOT NULL,
    digest  TEXT NOT NULL,
    size    INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    level   INTEGER,
    PRIMARY KEY (diff_id, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_blobs_digest ON layer_blobs (digest);
CREATE TABLE pins (
    owner  TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (owner, digest)
) STRICT, WITHOUT ROWID;
";

/// An open metadata database.
pub(crate) struct Meta {
    layout: Layout,
    connection: Mutex<Connection>,
    warnings: Mutex<Vec<String>>,
    /// This process has written something.
    has_written: AtomicBool,
}

impl Meta {
    /// Opens the database, making it if it is not there.
    pub(crate) fn open(layout: &Layout) -> Result<Meta, StoreError> {
        let mut warnings = Vec::new();
        let connection = match connect(layout) {
            Err(StoreError::Database { source, .. }) if is_damage(&source) => {
                replace_damaged(layout, &mut warnings)?
            }
            result => result?,
        };
        Ok(Meta {
            layout: layout.clone(),
            connection: Mutex::new(connection),
            warnings: Mutex::new(warnings),
            has_written: AtomicBool::new(false),
        })
    }

    /// What was found damaged since the store was opened.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Runs a query; on a damaged database once more with a fresh one.
    pub(crate) fn run<T>(
        &self,
        action: &'static str,
        mut query: impl FnMut(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match query(&mut connection) {
            Err(error) if is_damage(&error) => {
                let mut warnings = Vec::new();
                *connection = replace_damaged(&self.layout, &mut warnings)?;
                self.warnings
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .append(&mut warnings);
                query(&mut connection).map_err(StoreError::database(action))
            }
            result => result.map_err(StoreError::database(action)),
        }
    }

    /// Runs a transaction that writes.
    pub(crate) fn write<T>(
        &self,
        action: &'static str,
        mut query: impl FnMut(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.run(action, |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = query(&transaction)?;
            transaction.commit()?;
            self.has_written.store(true, Ordering::Relaxed);
            Ok(result)
        })
    }

    /// Runs a transaction that is on disk when this returns.
    pub(crate) fn write_durably<T>(
        &self,
        action: &'static str,
        mut query: impl FnMut(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.run(action, |connection| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let result = (|| {
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let result = query(&transaction)?;
                transaction.commit()?;
                self.has_written.store(true, Ordering::Relaxed);
                Ok(result)
            })();
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            result
        })
    }

    /// Writes the log back into the database and makes it as small as it can be.
    pub(crate) fn compact(&self) -> Result<(), StoreError> {
        self.run("compact", |connection| {
            // Another process that reads right now only makes it less complete.
            connection.query_row(CHECKPOINT, [], |_| Ok(()))
        })
    }

    /// Runs the database's own check; the problems it finds, in words.
    pub(crate) fn check(&self) -> Result<Vec<String>, StoreError> {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let problems = problems_of(&connection);
        match problems {
            Err(error) if is_damage(&error) => Ok(vec![error.to_string()]),
            result => result.map_err(StoreError::database("check")),
        }
    }

    /// Sets the database aside and begins a new one.
    pub(crate) fn replace(&self) -> Result<(), StoreError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        *connection = replace_damaged(&self.layout, &mut warnings)?;
        Ok(())
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        if !self.has_written.load(Ordering::Relaxed) {
            return;
        }
        let wal = self.layout.database_wal();
        let is_long = std::fs::metadata(&wal).is_ok_and(|found| found.len() > LONG_WAL);
        if is_long {
            let connection = self.connection.get_mut();
            let connection = connection.unwrap_or_else(PoisonError::into_inner);
            // Nobody waits for who uses it right now: the next one to close tries again.
            let done = connection
                .busy_timeout(Duration::ZERO)
                .and_then(|()| connection.query_row(CHECKPOINT, [], |_| Ok(())));
            if let Err(error) = done {
                tracing::debug!(%error, "the WAL stays long");
            }
        }
    }
}

fn problems_of(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut problems: Vec<String> = lines.collect::<rusqlite::Result<_>>()?;
    problems.retain(|line| line != "ok");
    Ok(problems)
}

/// Tells whether an error means that the file itself is broken.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(
                failure.code,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase
            )
        }
        // A value of another type than the column's: only damage can do that to STRICT tables.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

fn connect(layout: &Layout) -> Result<Connection, StoreError> {
    let path = layout.database();
    if !path.exists() {
        let _lock = StoreLock::wait(&layout.named_lock("meta-create"), Hold::Exclusive)?;
        if !path.exists() {
            create(layout)?;
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(&path, flags).map_err(StoreError::database("open the file"))?;
    let version = prepare(&connection).map_err(StoreError::database("set up"))?;
    match version {
        SCHEMA_VERSION => Ok(connection),
        // Never published like this: an empty file, or one cut off.
        0 => Err(StoreError::Database {
            action: "open the file",
            source: rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
                None,
            ),
        }),
        other => Err(StoreError::Format {
            root: layout.root().to_path_buf(),
            found: format!("{other} (database)"),
            supported: SCHEMA_VERSION as u32,
        }),
    }
}

/// Makes a new database beside and renames it into place.
///
/// Switching a database to its log cannot wait for others: `SQLite` answers "locked" at once. So
/// nobody may have it open yet.
fn create(layout: &Layout) -> Result<(), StoreError> {
    let scratch = Scratch::new(layout)?;
    let path = scratch.path().join("meta.db");
    let make = || {
        let mut connection = Connection::open(&path)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
        // Closing writes the log back and removes it.
        connection.close().map_err(|(_, error)| error)
    };
    make().map_err(StoreError::database("create the tables"))?;
    let target = layout.database();
    // The log of a database that somebody removed would be taken for that of the new one.
    for suffix in ["-wal", "-shm"] {
        crate::remove::remove_tree(&with_suffix(&target, suffix))?;
    }
    std::fs::rename(&path, &target).map_err(StoreError::io("publish the database", &target))
}

/// Sets the connection up; returns the schema version.
fn prepare(connection: &Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(BUSY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    user_version(connection)
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Begins a new database, unless another process has done so already.
fn replace_damaged(layout: &Layout, warnings: &mut Vec<String>) -> Result<Connection, StoreError> {
    let _lock = StoreLock::wait(&layout.named_lock("meta"), Hold::Exclusive)?;
    if let Ok(connection) = connect(layout)
        && problems_of(&connection).is_ok_and(|problems| problems.is_empty())
    {
        return Ok(connection);
    }
    let aside = free_name(&layout.database());
    for suffix in ["", "-wal", "-shm"] {
        let from = with_suffix(&layout.database(), suffix);
        let to = with_suffix(&aside, suffix);
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("set aside", &from)(error)),
        }
    }
    warnings.push(format!(
        "the metadata database was damaged and is now `{}`; image names and build records are lost, \
         unpacked layers and blobs are not",
        aside.display()
    ));
    connect(layout)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// A name beside the database that is not taken.
fn free_name(database: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let path = with_suffix(database, &format!(".damaged-{number}"));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}
