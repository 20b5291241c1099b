//! One-time codes by time (RFC 6238), and recovery codes for the day the phone is gone.

use qrcode::QrCode;
use qrcode::render::svg;
use totp_rs::{Builder, Totp};

use crate::error::{Error, Result};

/// 160 bits, as RFC 4226, 4 recommends.
pub const SECRET_BYTES: usize = 20;

/// Ten, of 50 random bits each.
const RECOVERY_CODES: usize = 10;

/// Without letters that are taken for digits (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The step of a right code, to be accepted once; the steps before and after this one are right as well.
pub fn find_step(secret: &[u8], code: &str, unix_seconds: u64) -> Result<Option<i64>> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let step = generator(secret, "", "")?.check(&code, unix_seconds);
    Ok(step.and_then(|step| i64::try_from(step).ok()))
}

/// What a phone reads: the address of the secret, its picture as SVG, and the secret to be typed.
pub fn invitation(secret: &[u8], issuer: &str, account: &str) -> Result<(String, String)> {
    // A colon separates the two in the address.
    let totp = generator(secret, &issuer.replace(':', " "), &account.replace(':', " "))?;
    let code = QrCode::new(totp.to_url().map_err(Error::internal)?).map_err(Error::internal)?;
    let mut renderer = code.render::<svg::Color<'_>>();
    let picture = renderer.min_dimensions(220, 220).dark_color(svg::Color("#000")).light_color(svg::Color("#fff")).build();
    // The markup alone: an XML declaration has no place inside a page.
    let picture = picture.split_once("?>").map_or(picture.clone(), |(_declaration, svg)| svg.to_owned());
    Ok((totp_rs::Secret::from(secret.to_vec()).to_base32(), picture))
}

fn generator(secret: &[u8], issuer: &str, account: &str) -> Result<Totp> {
    let issuer = Some(issuer).filter(|issuer| !issuer.is_empty());
    Builder::new().with_secret(secret.to_vec()).with_issuer(issuer).with_account_name(account).build().map_err(Error::internal)
}

/// New recovery codes, like `k3f9m-x7q2p`.
pub fn recovery_codes() -> Result<Vec<String>> {
    let mut random = [0; RECOVERY_CODES * 10];
    getrandom::fill(&mut random).map_err(|error| Error::internal(format!("no randomness: {error}")))?;
    let letters: Vec<char> = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    Ok(letters
        .chunks(10)
        .map(|code| format!("{}-{}", code[..5].iter().collect::<String>(), code[5..].iter().collect::<String>()))
        .collect())
}

/// A recovery code as it is compared, however it was typed.
pub fn normalised(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, cut to six digits.
    #[test]
    fn the_codes_are_those_of_the_rfc() {
        let secret = b"12345678901234567890";
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")] {
            assert_eq!(find_step(secret, code, time).unwrap(), Some(i64::try_from(time / 30).unwrap()), "{time}");
        }
        assert_eq!(find_step(secret, " 287 082 ", 59).unwrap(), Some(1));
    }

    #[test]
    fn a_code_is_right_one_step_before_and_after_and_no_longer() {
        let secret = b"12345678901234567890";
        for (time, right) in [(0, true), (29, true), (89, true), (90, false), (150, false)] {
            assert_eq!(find_step(secret, "287082", time).unwrap().is_some(), right, "{time}");
        }
        for wrong in ["", "28708", "2870820", "abcdef", "２８７０８２"] {
            assert_eq!(find_step(secret, wrong, 59).unwrap(), None, "{wrong}");
        }
    }

    #[test]
    fn recovery_codes_differ_and_are_read_however_they_are_typed() {
        let codes = recovery_codes().unwrap();
        let unlike: std::collections::HashSet<_> = codes.iter().map(|code| normalised(code)).collect();
        assert_eq!(unlike.len(), RECOVERY_CODES);
        assert_eq!(normalised(" K3F9M x7q2p "), normalised("k3f9m-x7q2p"));
    }

    #[test]
    fn the_invitation_is_a_picture_and_a_text() {
        let (typed, picture) = invitation(b"12345678901234567890", "User: Service", "ada@example.com").unwrap();
        assert_eq!(typed, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(picture.starts_with("<svg"), "{}", &picture[..40]);
    }
}
