//! The Date of a response (RFC 9110 6.6.1), formatted once a second.

use std::cell::RefCell;
use std::rc::Rc;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// IMF-fixdate (RFC 9110 5.6.7).
const IMF_FIXDATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

thread_local! {
    static LAST: RefCell<(i64, Rc<str>)> = RefCell::new((i64::MIN, Rc::from("")));
}

/// The present time as an IMF-fixdate.
pub(super) fn now() -> Rc<str> {
    let now = OffsetDateTime::now_utc();
    LAST.with(|last| {
        let mut last = last.borrow_mut();
        if last.0 != now.unix_timestamp() {
            *last = (now.unix_timestamp(), format(now).into());
        }
        Rc::clone(&last.1)
    })
}

fn format(time: OffsetDateTime) -> String {
    time.format(IMF_FIXDATE).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_example_of_the_rfc() {
        let time = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(format(time), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(now().len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
    }
}
