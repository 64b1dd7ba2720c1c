/** How much the eBPF programs tell. Apart from what does it: options need the number, and not libbpf. */
import type { EventRate } from './desired.ts';

/** Events of each kind that each CPU may write, unless told otherwise. */
export const DEFAULT_EVENT_RATE: EventRate = { perSecond: 1000, burst: 2000 };
