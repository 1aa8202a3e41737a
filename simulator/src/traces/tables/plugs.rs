//! The numbers of plugging in. 7.4 publishes what comes out, not how owners think, so nearly all of these are fitted to that.
//!
//! A curve is read at an owner's wish, the times a week that this owner wants to plug in.

use super::{Curve, Hours, Quantiles, hours};

/// Times a week that an owner wants to plug in: lognormal with median 4.1 and sigma 0.6, within 0.5 and 14 (7.5), by points.
pub(in crate::traces) const PLUGS_A_WEEK: Quantiles = Curve(&[
    (0.0, 0.5),
    (0.01, 1.015),
    (0.05, 1.528),
    (0.1, 1.900),
    (0.25, 2.735),
    (0.4, 3.522),
    (0.5, 4.1),
    (0.6, 4.773),
    (0.75, 6.145),
    (0.9, 8.845),
    (0.95, 11.0),
    (0.98, 14.0),
    (1.0, 14.0),
]);

/// Chance to plug in at one of the occasions of a stay. Fitted to the sessions a week.
pub(in crate::traces) const READINESS: Curve = Curve(&[
    (0.5, 0.08),
    (2.0, 0.165),
    (2.9, 0.21),
    (4.1, 0.49),
    (6.1, 0.74),
    (8.8, 1.0),
    (14.0, 1.0),
]);
/// Of that, on the eve of a day of the weekend. Fitted to the plugged share of weekends.
pub(in crate::traces) const WEEKEND: f64 = 0.8;
/// Of that, on arrival. Fitted to the plug-in hours.
pub(in crate::traces) const ON_ARRIVAL: f64 = 0.9;
/// Of that, on arrival after [`LATE`]: many leave the cable for tomorrow. Fitted to the plugged share at night.
pub(in crate::traces) const ON_LATE_ARRIVAL: f64 = 0.5;
/// An hour of the day.
pub(in crate::traces) const LATE: f64 = 21.5;

/// When an owner whose car is at home thinks of the cable. Fitted to the plug-in hours and the plugged share by hour.
pub(in crate::traces) const OCCASIONS: Hours = hours(&[
    (14, 15, 5.0),
    (15, 16, 20.0),
    (16, 17, 25.5),
    (17, 18, 5.5),
    (18, 19, 3.0),
    (19, 20, 6.0),
    (20, 22, 4.3),
    (22, 24, 2.0),
]);
/// The same on a day of the weekend. Fitted to the plugged share of weekends.
pub(in crate::traces) const OCCASIONS_WEEKEND: Hours =
    hours(&[(9, 14, 6.0), (14, 20, 8.0), (20, 22, 5.0), (22, 24, 1.0)]);

/// Chance of a short session. Fitted to p10 and p25 of the durations.
pub(in crate::traces) const SHORT: Curve = Curve(&[(0.5, 0.05), (2.0, 0.15), (4.1, 0.34), (8.8, 0.47), (14.0, 0.47)]);
/// Hours of one. Fitted likewise.
pub(in crate::traces) const SHORT_HOURS: Quantiles = Curve(&[(0.0, 0.3), (0.3, 1.5), (0.8, 4.3), (1.0, 7.0)]);
/// From this hour on nobody pulls a cable before the morning. Fitted to the unplugging of the night.
pub(in crate::traces) const NIGHT: f64 = 22.0;
/// When the cable of any other session is pulled. Fitted to the plug-out hours and the unplugging by hour.
pub(in crate::traces) const UNPLUGGING: Hours = hours(&[
    (6, 7, 0.5),
    (7, 8, 38.0),
    (8, 9, 11.0),
    (9, 10, 10.0),
    (10, 12, 7.0),
    (12, 14, 3.5),
    (14, 16, 3.0),
    (16, 20, 3.2),
]);
/// Chance that it then stays in for another day. Fitted to the 8 % above 24 h.
pub(in crate::traces) const FORGOTTEN: f64 = 0.32;
/// The same on a day of the weekend. Fitted to the plugged share of weekends.
pub(in crate::traces) const FORGOTTEN_WEEKEND: f64 = 0.80;
/// That many times the chance. Those who plug in less than about twice a week leave the cable in: p10 of the plugged share is 0.14,
/// at 1.6 sessions a week, which is 15 hours for each. Fitted to the quantiles of the plugged share.
pub(in crate::traces) const PATIENCE: Curve = Curve(&[
    (0.5, 2.4),
    (2.0, 2.3),
    (2.5, 0.5),
    (3.4, 0.6),
    (4.1, 1.0),
    (8.8, 0.75),
    (14.0, 0.6),
]);
/// At most this chance, so that no cable stays in for ever.
pub(in crate::traces) const FORGOTTEN_AT_MOST: f64 = 0.9;
/// Chance that an owner plugs in again soon after a session. Fitted to p90 of the sessions a week, more than there are arrivals.
pub(in crate::traces) const AGAIN: Curve = Curve(&[(6.5, 0.0), (9.0, 0.55), (14.0, 0.85)]);

/// Hours at a point that is not one's own. Median published (7.4, shared points), the rest fitted to their mean.
pub(in crate::traces) const AWAY_HOURS: Quantiles =
    Curve(&[(0.0, 0.3), (0.25, 1.8), (0.5, 4.0), (0.75, 9.0), (1.0, 20.0)]);
