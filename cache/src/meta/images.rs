//! Images and their names.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Meta;
use crate::digest::{DiffId, Digest};
use crate::error::StoreError;
use crate::records::{ImageEntry, ImageRecord};
use crate::store::now_unix;

const COLUMNS: &str = "manifest, media_type, manifest_size, config, created, size, layers";

/// Reads a digest that is kept as hex.
pub(super) fn digest_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    Digest::from_hex(&text).map_err(|error| damaged(column, error))
}

/// An error that [`Meta::run`] understands as damage.
pub(super) fn damaged(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// Reads layers that are kept as hex with blanks between.
pub(super) fn layers_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<DiffId>> {
    let text: String = row.get(column)?;
    text.split_ascii_whitespace()
        .map(|hex| Digest::from_hex(hex).map(DiffId::from_digest))
        .collect::<Result<_, _>>()
        .map_err(|error| damaged(column, error))
}

pub(super) fn layers_text(layers: &[DiffId]) -> String {
    layers.iter().map(DiffId::hex).collect::<Vec<_>>().join(" ")
}

fn record(row: &Row<'_>) -> rusqlite::Result<ImageRecord> {
    Ok(ImageRecord {
        manifest: digest_at(row, 0)?,
        manifest_media_type: row.get(1)?,
        manifest_size: row.get::<_, i64>(2)? as u64,
        config: digest_at(row, 3)?,
        created: row.get(4)?,
        size: row.get::<_, i64>(5)? as u64,
        layers: layers_at(row, 6)?,
    })
}

fn by_manifest(connection: &Connection, manifest: &str) -> rusqlite::Result<Option<ImageRecord>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE manifest = ?1"))?
        .query_row([manifest], record)
        .optional()
}

fn by_name(connection: &Connection, name: &str) -> rusqlite::Result<Option<ImageRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM images JOIN names USING (manifest) WHERE name = ?1"
        ))?
        .query_row([name], record)
        .optional()
}

fn insert(connection: &Connection, image: &ImageRecord) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO images (manifest, media_type, manifest_size, config, created, size, layers, \
         added) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (manifest) DO UPDATE SET \
         media_type = ?2, manifest_size = ?3, config = ?4, created = ?5, size = ?6, layers = ?7",
        params![
            image.manifest.hex(),
            image.manifest_media_type,
            image.manifest_size as i64,
            image.config.hex(),
            image.created,
            image.size as i64,
            layers_text(&image.layers),
            now_unix(),
        ],
    )?;
    Ok(())
}

fn names_of(connection: &Connection, manifest: &Digest) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT name FROM names WHERE manifest = ?1 ORDER BY name")?
        .query_map([manifest.hex()], |row| row.get(0))?
        .collect()
}

fn entry(connection: &Connection, record: ImageRecord) -> rusqlite::Result<ImageEntry> {
    let names = names_of(connection, &record.manifest)?;
    Ok(ImageEntry { names, record })
}

impl Meta {
    pub(crate) fn image(&self, name: &str) -> Result<Option<ImageRecord>, StoreError> {
        self.run("look an image up", |connection| by_name(connection, name))
    }

    pub(crate) fn image_by_manifest(
        &self,
        manifest: &Digest,
    ) -> Result<Option<ImageRecord>, StoreError> {
        self.run("look an image up", |connection| {
            by_manifest(connection, &manifest.hex())
        })
    }

    /// An image with all its names.
    pub(crate) fn image_entry(&self, manifest: &Digest) -> Result<Option<ImageEntry>, StoreError> {
        self.run("look an image up", |connection| {
            let transaction = connection.transaction()?;
            let record = by_manifest(&transaction, &manifest.hex())?;
            record.map(|record| entry(&transaction, record)).transpose()
        })
    }

    /// Points a name to an image; returns the image it pointed to.
    pub(crate) fn tag(
        &self,
        name: &str,
        image: &ImageRecord,
    ) -> Result<Option<ImageRecord>, StoreError> {
        self.write_durably("tag the image", |transaction| {
            let previous = by_name(transaction, name)?;
            insert(transaction, image)?;
            transaction.execute(
                "INSERT INTO names (name, manifest) VALUES (?1, ?2) \
                 ON CONFLICT (name) DO UPDATE SET manifest = ?2",
                params![name, image.manifest.hex()],
            )?;
            Ok(previous)
        })
    }

    pub(crate) fn untag(&self, name: &str) -> Result<bool, StoreError> {
        self.write_durably("untag the image", |transaction| {
            Ok(transaction.execute("DELETE FROM names WHERE name = ?1", [name])? > 0)
        })
    }

    pub(crate) fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.write_durably("add the image", |transaction| insert(transaction, image))
    }

    /// All images, last added first.
    pub(crate) fn images(&self) -> Result<Vec<ImageEntry>, StoreError> {
        self.run("list the images", |connection| {
            // One look at the database, which does not change between an image and its names.
            let transaction = connection.transaction()?;
            let records: Vec<ImageRecord> = transaction
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images ORDER BY added DESC, rowid DESC"
                ))?
                .query_map([], record)?
                .collect::<rusqlite::Result<_>>()?;
            let entries = records
                .into_iter()
                .map(|record| entry(&transaction, record));
            entries.collect()
        })
    }

    /// All images whose ID or manifest digest begins with these hex digits.
    pub(crate) fn images_by_prefix(&self, hex: &str) -> Result<Vec<ImageEntry>, StoreError> {
        self.run("look an image up", |connection| {
            // Hex digits only: no character in it means anything to LIKE or GLOB.
            let pattern = format!("{hex}*");
            let transaction = connection.transaction()?;
            let records: Vec<ImageRecord> = transaction
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images WHERE config GLOB ?1 OR manifest GLOB ?1 \
                     ORDER BY added DESC, rowid DESC"
                ))?
                .query_map([pattern], record)?
                .collect::<rusqlite::Result<_>>()?;
            let entries = records
                .into_iter()
                .map(|record| entry(&transaction, record));
            entries.collect()
        })
    }

    /// Names that point to nothing.
    pub(crate) fn names_without_image(&self) -> Result<Vec<String>, StoreError> {
        self.run("check the names", |connection| {
            connection
                .prepare_cached(
                    "SELECT name FROM names WHERE manifest NOT IN (SELECT manifest FROM images)",
                )?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    pub(crate) fn remove_image(&self, manifest: &Digest) -> Result<bool, StoreError> {
        let manifest = manifest.hex();
        self.write_durably("remove the image", |transaction| {
            transaction.execute("DELETE FROM names WHERE manifest = ?1", [&manifest])?;
            Ok(transaction.execute("DELETE FROM images WHERE manifest = ?1", [&manifest])? > 0)
        })
    }
}
