//! The format of a data folder: one file that says it, read before anything else is touched.

use crate::durable;
use crate::ending::RunError;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// The format that this release reads and writes. 2: rows of indexes over leases are sets of keys (ADR 26). 3: targets say
/// what kind of system they are, and roles the form of their verifiers.
const FORMAT: &str = "3";

/// Refuses a folder of another release and leaves it as it is; marks a folder that has no mark.
///
/// # Errors
/// [`RunError::OtherFormat`]; [`RunError::Read`] when the mark can be neither read nor made.
pub(crate) fn check(data: &Path) -> Result<(), RunError> {
    let path = data.join("format");
    let failed = |source| RunError::Read { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(found) if found.trim_end() == FORMAT => Ok(()),
        Ok(found) => {
            let found = found.chars().take(16).filter(|c| !c.is_control()).collect();
            Err(RunError::OtherFormat { path: data.to_owned(), found })
        }
        Err(why) if why.kind() == ErrorKind::NotFound => {
            durable::replace(&path, format!("{FORMAT}\n").as_bytes(), durable::PUBLIC).map_err(failed)
        }
        Err(why) => Err(failed(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_marked_once_and_one_of_another_release_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path()).unwrap();
        check(folder.path()).unwrap();
        for other in ["1\n", "2\n", "4\n"] {
            fs::write(folder.path().join("format"), other).unwrap();
            let error = check(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("format {}", other.trim())) && error.contains("left as it is"), "{error}");
            assert_eq!(fs::read(folder.path().join("format")).unwrap(), other.as_bytes());
        }
    }
}
