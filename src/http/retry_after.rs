//! The `Retry-After` header: seconds, or one of the three dates of RFC 9110, section 5.6.7.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest that a server may make us wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// How long `value` asks to wait from `now`; at most an hour, nothing for a date in the past,
/// `None` if it makes no sense.
pub(crate) fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds is still a number, and above the limit.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let now = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let wait = http_date(value, now)?.saturating_sub(now).max(0);
    Some(Duration::from_secs(u64::try_from(wait).ok()?).min(LONGEST))
}

/// The time in a `Date` header.
pub(crate) fn date(value: &str) -> Option<SystemTime> {
    // Only the obsolete form has a year of two digits; no server has to send that.
    let seconds = http_date(value.trim(), 0)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Seconds since 1970 of an HTTP date. `now` only settles the century of a two-digit year.
fn http_date(text: &str, now: i64) -> Option<i64> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (day, month, year, time) = match words[..] {
        // Sun, 06 Nov 1994 08:49:37 GMT
        [name, day, month, year, time, "GMT"] if name.ends_with(',') => {
            (day, month, full_year(year)?, time)
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        [name, date, time, "GMT"] if name.ends_with(',') => {
            let mut parts = date.splitn(3, '-');
            let (day, month) = (parts.next()?, parts.next()?);
            (day, month, short_year(parts.next()?, now)?, time)
        }
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] => (day, month, full_year(year)?, time),
        _ => return None,
    };
    Some(days(year, month_number(month)?, number(day, 1..=31)?) * 86_400 + seconds(time)?)
}

fn number(digits: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let all_digits = (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| all_digits)?;
    range.contains(&number).then_some(number)
}

fn full_year(digits: &str) -> Option<i64> {
    number(digits, 1970..=9999)
}

/// RFC 9110: a two-digit year that seems more than 50 years ahead is the latest past one.
fn short_year(digits: &str, now: i64) -> Option<i64> {
    let this_year = 1970 + now / 31_556_952;
    let year = this_year - this_year % 100 + number(digits, 0..=99)?;
    Some(if year > this_year + 50 {
        year - 100
    } else {
        year
    })
}

fn month_number(name: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let index = MONTHS.iter().position(|month| *month == name)?;
    i64::try_from(index + 1).ok()
}

fn seconds(time: &str) -> Option<i64> {
    let mut parts = time.splitn(3, ':');
    let hours = number(parts.next()?, 0..=23)?;
    let minutes = number(parts.next()?, 0..=59)?;
    // 60 is a leap second.
    Some((hours * 60 + minutes) * 60 + number(parts.next()?, 0..=60)?)
}

/// Days from 1 January 1970 to this date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Count years from March, so that a leap day is a year's last day.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    // 153 days in every five months from March; 719 469 days from 1 March of year 0 to the epoch,
    // less one because `day` counts from 1.
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOV_1994: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn from_1994(value: &str) -> Option<u64> {
        parse(value, at(NOV_1994 - 90)).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_are_taken_as_they_are() {
        assert_eq!(from_1994("0"), Some(0));
        assert_eq!(from_1994(" 120 "), Some(120));
    }

    #[test]
    fn all_three_date_forms_name_the_same_second() {
        assert_eq!(from_1994("Sun, 06 Nov 1994 08:49:37 GMT"), Some(90));
        assert_eq!(from_1994("Sunday, 06-Nov-94 08:49:37 GMT"), Some(90));
        assert_eq!(from_1994("Sun Nov  6 08:49:37 1994"), Some(90));
    }

    #[test]
    fn leap_days_and_year_ends_are_counted() {
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Thu, 31 Dec 2026 23:59:59 GMT", 1_798_761_599),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ] {
            assert_eq!(http_date(date, 0), Some(seconds), "{date}");
        }
    }

    #[test]
    fn a_two_digit_year_is_at_most_50_years_ahead() {
        let in_2026 = 1_795_000_000;
        assert_eq!(short_year("94", in_2026), Some(1994));
        assert_eq!(short_year("76", in_2026), Some(2076));
        assert_eq!(short_year("77", in_2026), Some(1977));
    }

    #[test]
    fn nobody_makes_us_wait_more_than_an_hour() {
        for value in [
            "3601",
            "99999999999999999999999999",
            "Sun, 06 Nov 2094 08:49:37 GMT",
        ] {
            assert_eq!(from_1994(value), Some(3600), "{value}");
        }
    }

    #[test]
    fn a_date_in_the_past_means_at_once() {
        assert_eq!(from_1994("Sat, 05 Nov 1994 08:49:37 GMT"), Some(0));
    }

    #[test]
    fn nonsense_is_none() {
        for value in [
            "",
            "soon",
            "-1",
            "1.5",
            "+5",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nox 1994 08:49:37 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov +994 08:49:37 GMT",
        ] {
            assert_eq!(from_1994(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(value in ".{0,60}", now in 0_u64..1 << 40) {
            if let Some(wait) = parse(&value, at(now)) {
                prop_assert!(wait <= LONGEST);
            }
        }
    }
}
