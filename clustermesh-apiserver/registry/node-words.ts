/** What people are told of nodes that are not let in. */

/** Of a node without a Node. */
export function goneReason(name: string): string {
  return `there is no Node ${name} in this cluster: it was deleted; when it is there again its agent enrols by itself`;
}

/** Of a certificate that was given for a Node of the same name before. */
export function formerReason(name: string): string {
  return `the certificate is of a former Node ${name}, which was deleted: the agent of the present one enrols by itself, any other has no place here`;
}
