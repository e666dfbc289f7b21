package trustlayer.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The README's first snippet, as it stands. */
class ReadmeTest {
    @Test
    void theFirstSnippetRunsAndSaysYesAndNo(@TempDir Path directory) throws Exception {
        String readme = Files.readString(Pair.REPOSITORY.resolve("clients/java/README.md"));
        Matcher snippet = Pattern.compile("(?s)```java\n(.*?)```").matcher(readme);
        assertTrue(snippet.find());
        Path file = Files.writeString(directory.resolve("Check.java"), snippet.group(1));
        try (Pair pair = new Pair()) {
            assertEquals("welcome, Ada [reader]\n", run(file, pair, pair.get("session_id")));
            assertEquals("no: MALFORMED\n", run(file, pair, "no session id"));
        }
    }

    private static String run(Path file, Pair pair, String sessionId) throws Exception {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        ProcessBuilder command =
                new ProcessBuilder(java, "-cp", System.getProperty("java.class.path"), file.toString());
        command.environment().put("TRUSTLAYER_SOCKET", pair.get("socket"));
        command.environment().put("SESSION_ID", sessionId);
        command.environment().put("CLIENT_IP", pair.get("client_ip"));
        Process process = command.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        String said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertTrue(process.waitFor(60, TimeUnit.SECONDS));
        assertEquals(0, process.exitValue());
        return said;
    }
}
