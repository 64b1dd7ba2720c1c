/** What `clustermesh check` looked at: a line each, with the problem where there is one. Pure. */
import { z } from 'zod';
import { parseJsonAs } from '../wire/agent-report.ts';
import { problemSchema } from './diagnosis.ts';

const checkSchema = z.object({
  section: z.string(),
  /** What is as it should be, or should be so. */
  title: z.string(),
  /** Absent: it is so. */
  problem: problemSchema.optional(),
});

/** One thing that was looked at. */
export type Check = z.infer<typeof checkSchema>;

/** Reads checks as an agent writes them. Throws WireError `bad-value`. */
export function decodeChecks(json: string): Check[] {
  return parseJsonAs(z.array(checkSchema), { json, key: 'what was checked' });
}
