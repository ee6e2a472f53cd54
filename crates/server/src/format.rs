//! The format of a data folder: one file that says it, read before anything else is touched.

use crate::durable;
use crate::ending::RunError;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// The format that this release reads and writes. 2: rows of indexes over leases are sets of keys (ADR 26). 3: targets say
/// what kind of system they are, and roles the form of their verifiers.
pub(crate) const FORMAT: &str = "3";

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
        // Of a byte that is changed only white space says the same.
        let marked = fs::read(folder.path().join("format")).unwrap();
        for at in 0..marked.len() {
            for bit in 0..8 {
                let mut changed = marked.clone();
                changed[at] ^= 1 << bit;
                fs::write(folder.path().join("format"), &changed).unwrap();
                assert_eq!(
                    check(folder.path()).is_ok(),
                    String::from_utf8_lossy(&changed).trim_end() == FORMAT,
                    "{changed:?}"
                );
                assert_eq!(fs::read(folder.path().join("format")).unwrap(), changed, "it is left as it is");
            }
        }
        for other in ["1\n", "2\n", "4\n"] {
            fs::write(folder.path().join("format"), other).unwrap();
            let error = check(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("format {}", other.trim())) && error.contains("left as it is"), "{error}");
            assert!(error.contains(&format!("knows format {FORMAT} only")), "{error}");
            assert_eq!(fs::read(folder.path().join("format")).unwrap(), other.as_bytes());
        }
    }
}
