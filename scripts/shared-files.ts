/** How a process that several test files share says which of them has ended. */
export const END_OF_FILE = 'end of ';
/**
 * The environment variable that tells it their paths, one a line. Not arguments: tap names its folders by those, and file systems
 * take no name of more than 255 bytes.
 */
export const SHARED_FILES = 'ISTHMUS_SHARED_TEST_FILES';
