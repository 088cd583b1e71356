//! Where a log that was opened goes on: in a new segment, or where there is space without one.
//!
//! A node that is started on a full disk must be able to vote, or nobody could look at its data. So such a
//! start uses what is on the disk already. Of that it takes only what it writes: to start again and again
//! uses up nothing.

use super::log::LogError;
use super::segments::Segments;
use crate::{Options, Recovered, Rest};

/// The last segment there is space for is only made if less than this part is left of the newest.
const REST_PART: u64 = 8;

/// Removes what is dead and makes the first segment ready. Says whether there is no space for it: then
/// the log goes on in the newest one, or waits.
pub(super) async fn begin(
    segments: &Segments,
    options: Options,
    recovered: &mut Recovered,
) -> Result<bool, LogError> {
    let spare = recovered
        .spare
        .filter(|_| !segments.has_space_without_one());
    let kept = spare.map(|spare| spare.segment);
    for &segment in recovered.dead.iter().filter(|&&it| Some(it) != kept) {
        segments.remove(segment)?;
    }
    segments.sync().await?;
    if let Some(spare) = spare {
        if is_untouched(segments, options, spare).await? {
            recovered.writer.take_over(spare.segment);
            return Ok(false);
        }
        segments.discard(spare.segment).await?;
        segments.sync().await?;
    }
    let next = recovered.writer.next_segment();
    let made = segments.prepare(next).await;
    let newest = recovered.writer.segments().last();
    let newest = newest.or(recovered.given_up.last().copied());
    let (Err(LogError::Full { .. }), Some(newest)) = (&made, newest) else {
        return made.map(|()| false);
    };
    let left = recovered.rest.map_or(0, |rest| rest.bytes);
    if left < options.segment_bytes / REST_PART {
        match segments.prepare_with(next, 1).await {
            Err(LogError::Full { .. }) => {}
            made => return made.map(|()| false),
        }
    }
    // What it holds can be read. Buffers come from an open file.
    segments.existing(newest).await?;
    if let Some(rest) = recovered.rest
        && is_untouched(segments, options, rest).await?
    {
        recovered.writer.resume(rest);
    }
    Ok(true)
}

/// Whether a segment is as replay saw it: of a process that was killed, a write may have been under way.
async fn is_untouched(segments: &Segments, options: Options, rest: Rest) -> Result<bool, LogError> {
    segments.existing(rest.segment).await?;
    segments.drain(rest.segment).await?;
    let bytes = segments.read(rest.segment, u64::from(u32::MAX)).await?;
    Ok(rest.is_untouched(options, &bytes))
}
