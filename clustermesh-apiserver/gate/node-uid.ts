/** Which Node a certificate was given for: the UID of the object, written beside the common name as an RFC 9562 URN. */
import type { X509Certificate } from 'node:crypto';

/** What the API server gives to objects; one of another form is not written. */
const UID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const PREFIX = 'urn:uuid:';

/** URIs for the certificate of a node; none where its UID has no form that can be written. */
export function nodeUidUris(uid: string): readonly string[] {
  return UID.test(uid) ? [`${PREFIX}${uid}`] : [];
}

/** UID of the Node that a certificate names; undefined: it names none, or several. */
export function nodeUidOf({ subjectAltName }: X509Certificate): string | undefined {
  const uids = (subjectAltName ?? '')
    .split(', ')
    .filter((name) => name.startsWith(`URI:${PREFIX}`))
    .map((name) => name.slice(`URI:${PREFIX}`.length));
  const [uid] = uids;
  return uids.length === 1 && uid !== undefined && UID.test(uid) ? uid : undefined;
}
