/**
 * Text without the passwords of connection strings (I14). A URL that a user typed into the wrong place
 * comes back in commander's and in libraries' messages, so everything printed about a failure passes here.
 */
export function redact(text: string): string {
  // Up to the last @ of the word: an unescaped @ in a password must not cut the rule short.
  return text
    .replaceAll(/(\w+:\/\/[^\s:@/]*):\S*(?=@)/g, '$1:***')
    .replaceAll(/\b(password|sslpassword)=('[^']*'|[^\s&'"]+)/gi, '$1=***');
}
