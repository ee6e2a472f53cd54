//! What a lease's client may have the target store in the place of a password.

/// Whether a verifier is exactly what PostgreSQL stores for SCRAM-SHA-256 (RFC 5802, RFC 7677):
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, salt of 16 to 32 bytes, keys of 32, canonical base64.
///
/// PostgreSQL takes anything else for a plain password, and a huge iteration count holds its backend for seconds,
/// deaf to every timeout.
///
/// # Errors
/// What is wrong with it, without quoting it.
pub fn check_verifier(verifier: &str, iterations: u32) -> Result<(), &'static str> {
    let rest = verifier.strip_prefix("SCRAM-SHA-256$").ok_or("must begin with `SCRAM-SHA-256$`")?;
    let (parameters, keys) = rest.split_once('$').ok_or("must have three parts between `$`")?;
    let (count, salt) = parameters.split_once(':').ok_or("must name iterations and salt")?;
    let (stored, server) = keys.split_once(':').ok_or("must have StoredKey and ServerKey")?;
    if count != iterations.to_string() {
        return Err("must have the iteration count of the role");
    }
    if !matches!(base64_len(salt), Some(16..=32)) {
        return Err("must have a salt of 16 to 32 bytes in canonical base64");
    }
    if base64_len(stored) != Some(32) || base64_len(server) != Some(32) {
        return Err("must have keys of 32 bytes in canonical base64");
    }
    Ok(())
}

/// How many bytes a canonical base64 text (RFC 4648 section 4, padded) stands for.
fn base64_len(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take_while(|b| **b == b'=').count();
    let digits = bytes.get(..bytes.len().checked_sub(padding)?)?;
    let mut last = 0u8;
    for b in digits {
        last = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
    }
    // The bits that no byte uses must be zero.
    let canonical = match padding {
        0 => true,
        1 => last & 0b11 == 0,
        2 => last & 0b1111 == 0,
        _ => false,
    };
    if canonical { Some(bytes.len() / 4 * 3 - padding) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_canonical() {
        assert_eq!(base64_len("AAAA"), Some(3));
        assert_eq!(base64_len("AAA="), Some(2));
        assert_eq!(base64_len("AA=="), Some(1));
        for bad in ["", "AAA", "AAB=", "AB==", "A===", "====", "AA=A", "A A="] {
            assert_eq!(base64_len(bad), None, "{bad}");
        }
    }

    #[test]
    fn verifier_form() {
        let salt = "AAAAAAAAAAAAAAAAAAAAAA==";
        let k = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(check_verifier(&format!("SCRAM-SHA-256$4096:{salt}${k}:{k}"), 4096), Ok(()));
        for bad in [
            format!("SCRAM-SHA-256$20000000:{salt}${k}:{k}"),
            format!("SCRAM-SHA-256$04096:{salt}${k}:{k}"),
            format!("SCRAM-SHA-256$4096:{salt}${k}"),
            format!("SCRAM-SHA-256$4096:AAAA${k}:{k}"),
            format!("SCRAM-SHA-256$4096:{salt}${k}:{}", &k[..40]),
            format!("SCRAM-SHA-256$4096:{salt}${k}:{k} "),
            format!("SCRAM-SHA-256$4096:{salt}${k}:{k}'; DROP"),
            "secret".to_owned(),
            String::new(),
        ] {
            assert!(check_verifier(&bad, 4096).is_err(), "{bad}");
        }
    }
}
