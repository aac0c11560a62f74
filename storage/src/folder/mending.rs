//! What a repair does to the files of a store's folder: it finishes what a crash interrupted, takes safe copies, exchanges what the engine keeps
//! beside its rows. Nothing that holds a message is deleted without a copy in a dated place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Folder, kept_in, snapshot_in, write_synced};
use crate::engine::{Change, sync_folder};
use crate::segments::{self, Tip};
use crate::{journal, key, record};

impl Folder {
    /// The change that makes the journal void for rows that have all of it.
    pub(crate) fn void_journal(&self) -> io::Result<Change> {
        let round = journal::replay(&self.journal())?.round + 1;
        Ok(Change::Put(key::ROUND.to_vec(), record::serial_row(round)))
    }

    /// Finishes or undoes a copying that a crash interrupted. Returns what was done.
    pub(crate) fn settle_copies(&self) -> io::Result<Option<&'static str>> {
        let (rows, new, old) = (
            self.rows(),
            self.path.join("rows.new"),
            self.path.join("rows.old"),
        );
        let done = match (rows.exists(), new.exists(), old.exists()) {
            (false, true, true) => {
                // The old rows were moved away only after the new ones had been synced.
                fs::rename(&new, &rows)?;
                fs::remove_dir_all(&old)?;
                "finished a compaction that was interrupted"
            }
            (true, _, true) => {
                fs::remove_dir_all(&old)?;
                "removed the rows that a compaction had copied"
            }
            (true, true, false) => {
                fs::remove_dir_all(&new)?;
                "removed an unfinished copy of the rows"
            }
            (false, false, true) => {
                fs::rename(&old, &rows)?;
                "took back the rows before an interrupted compaction"
            }
            (false, true, false) | (_, false, false) => return Ok(None),
        };
        sync_folder(&self.path)?;
        Ok(Some(done))
    }

    /// Moves the rows to a dated place where they are kept. Returns the place.
    pub(crate) fn set_aside(&self) -> io::Result<PathBuf> {
        let place = self.dated_place()?;
        let kept = place.join("rows");
        self.copy_journal(&place)?;
        fs::rename(self.rows(), &kept)?;
        sync_folder(&place)?;
        sync_folder(&self.path)?;
        Ok(kept)
    }

    /// Copies the engine's files to a dated place where they are kept. Returns the place.
    pub(crate) fn copy_aside(&self) -> io::Result<PathBuf> {
        let place = self.dated_place()?;
        for entry in fs::read_dir(self.rows())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let copy = place.join(entry.file_name());
                fs::copy(entry.path(), &copy)?;
                File::open(copy)?.sync_all()?;
            }
        }
        self.copy_journal(&place)?;
        sync_folder(&place)?;
        Ok(place)
    }

    fn copy_journal(&self, place: &Path) -> io::Result<()> {
        let copy = place.join("journal");
        match fs::copy(self.journal(), &copy) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => File::open(copy)?.sync_all(),
        }
    }

    fn dated_place(&self) -> io::Result<PathBuf> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("{}-{:09}", date(now.as_secs()), now.subsec_nanos());
        let place = self.path.join("set-aside").join(name);
        fs::create_dir_all(&place)?;
        Ok(place)
    }

    /// Puts the copy in the place of the engine's snapshots. `false` where there is none.
    pub(crate) fn restore_snapshot(&self) -> io::Result<bool> {
        let Some(copy) = snapshot_in(&kept_in(&self.rows()))? else {
            return Ok(false);
        };
        self.remove_snapshots()?;
        write_synced(
            &self.rows().join(copy.file_name().unwrap_or_default()),
            &fs::read(&copy)?,
        )?;
        sync_folder(&self.rows())?;
        Ok(true)
    }

    /// Takes out of the rows what came after their snapshot, of which all a copy was kept. `false` where there is no snapshot.
    pub(crate) fn forget_log(&self) -> io::Result<bool> {
        let snapshot = snapshot_in(&self.rows())?;
        let Some(name) = snapshot
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
        else {
            return Ok(false);
        };
        segments::forget_log(&self.rows(), name)?;
        Ok(true)
    }

    /// The part of the rows that the engine may overwrite while it is opened and fails.
    pub(crate) fn tip(&self) -> io::Result<Option<Tip>> {
        let snapshot = snapshot_in(&self.rows())?;
        match snapshot
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
        {
            Some(name) if self.rows().join("db").exists() => segments::tip(&self.rows(), name),
            _ => Ok(None),
        }
    }

    /// Puts that part back as it was.
    pub(crate) fn restore_tip(&self, tip: &Tip) -> io::Result<()> {
        segments::restore(&self.rows(), tip)
    }

    /// Removes the engine's snapshots, of which a copy was kept.
    pub(crate) fn remove_snapshots(&self) -> io::Result<()> {
        while let Some(snapshot) = snapshot_in(&self.rows())? {
            fs::remove_file(snapshot)?;
        }
        Ok(())
    }
}

/// A day and time of UTC as `2026-11-22T21-45-09`: sortable, and a good file name.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day ends a year (proleptic Gregorian calendar).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00-00-00");
        assert_eq!(date(951_782_399), "2000-02-28T23-59-59");
        assert_eq!(date(951_782_400), "2000-02-29T00-00-00");
        assert_eq!(date(1_795_384_709), "2026-11-22T21-58-29");
    }
}
